//! Which records a person asks for.

use jiff::Timestamp;

use crate::record::{RecordVerdict, ScanRecord};
use crate::source::SourceName;

/// A choice of records. What is absent chooses nothing out.
#[derive(Debug, Clone, Default)]
pub struct ScanFilter {
    /// A part of the image's reference, `registry/repository:tag@digest`.
    pub image: Option<String>,
    /// The verdict.
    pub verdict: Option<RecordVerdict>,
    /// The webhook took the delivery at or after this.
    pub since: Option<Timestamp>,
    /// The source.
    pub source: Option<SourceName>,
}

impl ScanFilter {
    /// Whether a record is one of those asked for.
    pub fn admits(&self, record: &ScanRecord) -> bool {
        let image = self.image.as_deref();
        let since = self.since;
        image.is_none_or(|it| record.reference().contains(it))
            && (self.verdict.is_none() || self.verdict == record.verdict)
            && since.is_none_or(|it| record.received_at >= it)
            && self.source.as_ref().is_none_or(|it| *it == record.source)
    }
}
