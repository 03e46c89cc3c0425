//! Batch requests: checked as a whole, answered entry by entry.

use serde::Serialize;
use serde_json::{Value, json};

use super::error::{Code, Error};

const MOST_ENTRIES: usize = 10;
const LONGEST_ID: usize = 80;

/// The results of a batch's entries. SQS omits an empty list, and a Java SDK reports failures if the list `Failed` is
/// present.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Outcome {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    successful: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<Value>,
}

impl Outcome {
    /// Adds the result of the entry `id`. Returns an error that doesn't concern this entry alone.
    pub(crate) fn add(&mut self, id: &str, result: Result<Value, Error>) -> Result<(), Error> {
        match result {
            Ok(mut answer) => {
                if let Some(members) = answer.as_object_mut() {
                    members.insert("Id".to_owned(), id.into());
                }
                self.successful.push(answer);
            }
            Err(Error::Refused { code, message }) => {
                let failure = json!({"Id": id, "SenderFault": true, "Code": code.as_str(), "Message": message});
                self.failed.push(failure);
            }
            Err(err) => return Err(err),
        }
        Ok(())
    }
}

/// Checks the ids of a batch of `operation` (`SendMessage`, `DeleteMessage` or `ChangeMessageVisibility`).
pub(crate) fn check_ids(operation: &str, ids: &[&str]) -> Result<(), Error> {
    if ids.is_empty() {
        let message =
            format!("There should be at least one {operation}BatchRequestEntry in the request.");
        return Err(Error::new(Code::EmptyBatchRequest, message));
    }
    if ids.len() > MOST_ENTRIES {
        let count = ids.len();
        let message = format!(
            "Maximum number of entries per request are {MOST_ENTRIES}. You have sent {count}."
        );
        return Err(Error::new(Code::TooManyEntriesInBatchRequest, message));
    }
    let allowed = |it: char| it.is_ascii_alphanumeric() || it == '-' || it == '_';
    for (index, id) in ids.iter().enumerate() {
        if id.is_empty() || id.len() > LONGEST_ID || !id.chars().all(allowed) {
            let message = "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most 80 letters long.";
            return Err(Error::new(Code::InvalidBatchEntryId, message));
        }
        if ids.iter().take(index).any(|other| other == id) {
            return Err(Error::new(
                Code::BatchEntryIdsNotDistinct,
                format!("Id {id} repeated."),
            ));
        }
    }
    Ok(())
}
