//! Interprets a function's answer, with `ReportBatchItemFailures` enabled.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>, "Success and failure conditions".

use serde_json::Value;

/// Why an answer counts as a complete failure.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResponseError {
    #[error("the answer is neither null nor an object")]
    Shape,
    #[error("batchItemFailures is not a list")]
    List,
    #[error(
        "an entry of batchItemFailures has no itemIdentifier, or one that is null, empty or no text"
    )]
    Identifier,
    #[error("an itemIdentifier is not of this batch")]
    UnknownIdentifier,
}

/// The ids of the failed messages of a batch.
pub(super) fn failed(batch: &[&str], response: &Value) -> Result<Vec<String>, ResponseError> {
    let failures = match response {
        Value::Null => return Ok(Vec::new()),
        Value::Object(answer) => answer.get("batchItemFailures"),
        _ => return Err(ResponseError::Shape),
    };
    let failures = match failures {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(failures)) => failures,
        Some(_) => return Err(ResponseError::List),
    };
    let identifier = |failure: &Value| match failure.get("itemIdentifier").and_then(Value::as_str) {
        None | Some("") => Err(ResponseError::Identifier),
        Some(id) if batch.contains(&id) => Ok(id.to_owned()),
        Some(_) => Err(ResponseError::UnknownIdentifier),
    };
    failures.iter().map(identifier).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(response: Value, expected: Result<&[&str], ResponseError>) {
        let expected = expected.map(|ids| ids.iter().map(|&id| id.to_owned()).collect());
        assert_eq!(failed(&["a", "b"], &response), expected, "{response}");
    }

    #[test]
    fn nothing_reported_is_complete_success() {
        check(json!(null), Ok(&[]));
        check(json!({}), Ok(&[]));
        check(json!({"batchItemFailures": null}), Ok(&[]));
        check(json!({"batchItemFailures": []}), Ok(&[]));
        check(json!({"somethingElse": 1}), Ok(&[]));
    }

    #[test]
    fn reported_messages_fail_and_the_rest_succeeds() {
        check(
            json!({"batchItemFailures": [{"itemIdentifier": "b"}]}),
            Ok(&["b"]),
        );
        check(
            json!({"batchItemFailures": [{"itemIdentifier": "b"}, {"itemIdentifier": "a"}]}),
            Ok(&["b", "a"]),
        );
    }

    #[test]
    fn a_bad_identifier_is_complete_failure() {
        for identifier in [json!(""), json!(null), json!(7), json!(["a"])] {
            let failures = json!([{"itemIdentifier": "a"}, {"itemIdentifier": identifier}]);
            check(
                json!({"batchItemFailures": failures}),
                Err(ResponseError::Identifier),
            );
        }
        check(
            json!({"batchItemFailures": [{"id": "a"}]}),
            Err(ResponseError::Identifier),
        );
        check(
            json!({"batchItemFailures": ["a"]}),
            Err(ResponseError::Identifier),
        );
        check(
            json!({"batchItemFailures": [{"itemIdentifier": "c"}]}),
            Err(ResponseError::UnknownIdentifier),
        );
    }

    #[test]
    fn a_bad_shape_is_complete_failure() {
        check(json!({"batchItemFailures": "a"}), Err(ResponseError::List));
        check(
            json!({"batchItemFailures": {"itemIdentifier": "a"}}),
            Err(ResponseError::List),
        );
        for answer in [json!("done"), json!(true), json!(1), json!([])] {
            check(answer, Err(ResponseError::Shape));
        }
    }
}
