//! Files that a setting or an argument names: read whole, or refused at once.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use bytesize::ByteSize;

/// Why a file can't be used. Tells nothing of what is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadFileError {
    /// It is not there, or not for us to read.
    #[error("{0}")]
    Unreadable(ErrorKind),
    /// A directory, a pipe or a device: some of them never end, and some never begin.
    #[error("not a regular file")]
    NotRegular,
    /// More bytes than that.
    #[error("longer than {}", ByteSize(*.0).display().iec())]
    TooLong(u64),
    /// Its bytes are no UTF-8.
    #[error("not a text in UTF-8")]
    NotText,
}

/// Reads a regular file of at most `limit` bytes. Links are followed.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ReadFileError> {
    let unreadable = |err: std::io::Error| ReadFileError::Unreadable(err.kind());
    // Opening a pipe would wait for its other end.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path);
    let file = file.map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(ReadFileError::NotRegular);
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|it| it <= limit) {
        Ok(bytes)
    } else {
        Err(ReadFileError::TooLong(limit))
    }
}

/// Reads a regular file of at most `limit` bytes as UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String, ReadFileError> {
    String::from_utf8(read(path, limit)?).map_err(|_| ReadFileError::NotText)
}
