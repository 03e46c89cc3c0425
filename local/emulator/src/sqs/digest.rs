//! The MD5 sums in SQS's answers. Clients use them to detect garbled messages.

use std::collections::BTreeMap;

use md5::{Digest as _, Md5};

use super::message::AttributeValue;

pub(crate) fn of_body(body: &str) -> String {
    hex::encode(Md5::digest(body.as_bytes()))
}

/// Sums up message attributes; `None` if there are none.
///
/// Attributes are sorted by name. Name, data type and value each follow their length; one byte before the value
/// distinguishes text from bytes.
pub(crate) fn of_attributes(attributes: &BTreeMap<String, AttributeValue>) -> Option<String> {
    const TEXT: [u8; 1] = [1];
    const BYTES: [u8; 1] = [2];
    if attributes.is_empty() {
        return None;
    }
    let mut sum = Md5::new();
    for (name, attribute) in attributes {
        for part in [name.as_bytes(), attribute.data_type.as_bytes()] {
            sum.update(length(part));
            sum.update(part);
        }
        let value = attribute.value_bytes();
        sum.update(if attribute.is_binary() { BYTES } else { TEXT });
        sum.update(length(&value));
        sum.update(&value);
    }
    Some(hex::encode(sum.finalize()))
}

fn length(part: &[u8]) -> [u8; 4] {
    u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes()
}
