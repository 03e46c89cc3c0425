//! Receipt handles: opaque to callers, valid for one receive of one message.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::error::{Code, Error};

/// The content of a handle: a message, its queue, and the number of the receive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) queue: String,
    pub(crate) seq: i64,
    pub(crate) receive_count: i64,
    /// Guards against a handle from another store.
    pub(crate) message_id: String,
}

impl Receipt {
    pub(crate) fn encode(&self) -> String {
        let Self {
            queue,
            seq,
            receive_count,
            message_id,
        } = self;
        BASE64_STANDARD.encode(format!("{queue} {seq} {receive_count} {message_id}"))
    }

    /// Decodes a handle, which must be of `queue`.
    pub(crate) fn decode(handle: &str, queue: &str) -> Result<Self, Error> {
        parse(handle)
            .filter(|receipt| receipt.queue == queue)
            .ok_or_else(|| {
                let message =
                    format!("The input receipt handle \"{handle}\" is not a valid receipt handle.");
                Error::new(Code::ReceiptHandleIsInvalid, message)
            })
    }
}

fn parse(handle: &str) -> Option<Receipt> {
    let text = String::from_utf8(BASE64_STANDARD.decode(handle).ok()?).ok()?;
    let mut parts = text.split(' ');
    let receipt = Receipt {
        queue: parts.next()?.to_owned(),
        seq: parts.next()?.parse().ok()?,
        receive_count: parts.next()?.parse().ok()?,
        message_id: parts.next()?.to_owned(),
    };
    parts.next().is_none().then_some(receipt)
}
