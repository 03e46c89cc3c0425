//! Why a scan has no verdict, and whether trying again may help.

use serde::{Deserialize, Serialize};
use strum::{AsRefStr, Display, EnumString, IntoStaticStr, VariantArray};

/// Whether trying again may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Class {
    /// Tried again, then a dead letter.
    Transient,
    /// A dead letter at once.
    Permanent,
}

impl Class {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Why there is no verdict. A closed set.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    AsRefStr,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ErrorReason {
    /// The CLI refused its arguments.
    BadParameters,
    /// The message can't be read, or not by this version.
    BadMessage,
    /// Sysdig refused the API token.
    BadToken,
    /// Another worker holds the claim on this content.
    ClaimedElsewhere,
    /// The vulnerability database could not be had.
    Database,
    /// The message waited for longer than the queue keeps it. The owner of the queue says so, not the scanner.
    Expired,
    /// The registry knows no such image.
    ImageNotFound,
    /// A fault of ours.
    Internal,
    /// The registry or Sysdig could not be reached.
    Network,
    /// The CLI ended as if all were well and left no readable report.
    NoReport,
    /// The scratch space has no room for the image. Transient while other scans hold space, which the scanner's slots show.
    NoSpace,
    /// Killed for its memory.
    OutOfMemory,
    /// The index has no image for a platform that the source wants.
    PlatformMissing,
    /// The registry or Sysdig asks for a pause.
    RateLimited,
    /// The report is of another image, or contradicts the exit code.
    ReportMismatch,
    /// The CLI failed in a way nobody has a name for yet.
    ScannerError,
    /// Killed at the deadline.
    Timeout,
    /// Its compressed layers are larger than `scanner.max_image`.
    TooLarge,
    /// The registry refused the credentials.
    Unauthorized,
    /// The message's source is not configured.
    UnknownSource,
    /// Not an image the CLI can scan.
    UnsupportedImage,
    /// A certificate is not trusted.
    UntrustedTls,
}

impl ErrorReason {
    /// Every reason.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The word in records, dead letters, logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether trying again may help, on this receive.
    pub fn class(self, receive_count: u32) -> Class {
        match self {
            // A registry may not show a manifest at once after the push.
            Self::ImageNotFound if receive_count <= 1 => Class::Transient,
            Self::BadParameters
            | Self::BadMessage
            | Self::BadToken
            | Self::ImageNotFound
            | Self::NoSpace
            | Self::PlatformMissing
            | Self::ReportMismatch
            | Self::TooLarge
            | Self::Unauthorized
            | Self::UnknownSource
            | Self::UnsupportedImage
            | Self::UntrustedTls => Class::Permanent,
            Self::ClaimedElsewhere
            | Self::Database
            | Self::Expired
            | Self::Internal
            | Self::Network
            | Self::NoReport
            | Self::OutOfMemory
            | Self::RateLimited
            | Self::ScannerError
            | Self::Timeout => Class::Transient,
        }
    }

    /// Whether trying again may help, on any receive.
    pub fn may_pass(self) -> bool {
        self.class(u32::MAX) == Class::Transient
    }

    /// Whether an operator can fix it and then redrive, rather than only have another image pushed.
    pub fn is_fixable(self) -> bool {
        !matches!(
            self,
            Self::BadMessage
                | Self::ImageNotFound
                | Self::PlatformMissing
                | Self::ReportMismatch
                | Self::UnsupportedImage
        )
    }

    /// The last receive on which it is tried, if that is before the queue's own limit.
    pub fn last_receive(self) -> u32 {
        match self {
            Self::Timeout | Self::OutOfMemory | Self::NoReport => 3,
            _ => u32::MAX,
        }
    }
}

/// A scan without a verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct ScanError {
    /// Why.
    pub reason: ErrorReason,
    /// Whether it is tried again.
    pub class: Class,
    /// What an operator reads; short, and cleaned of secrets by whoever made it.
    pub detail: String,
}
