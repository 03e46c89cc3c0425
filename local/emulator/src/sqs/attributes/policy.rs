//! The two policies of dead-letter queues: where messages go, and which queues may send them.

use serde_json::{Value, json};

use super::super::error::Error;
use super::super::queue_arn;
use super::{REDRIVE_ALLOW_POLICY, REDRIVE_POLICY};

/// Checks a redrive policy and returns it normalised.
pub(super) fn parse_redrive(value: &str, region: &str) -> Result<String, Error> {
    let refused = |reason: &str| Error::invalid_value(value, REDRIVE_POLICY, reason);
    let policy: Value = serde_json::from_str(value)
        .map_err(|_| refused("Redrive policy is not a valid JSON map."))?;
    let policy = policy
        .as_object()
        .ok_or_else(|| refused("Redrive policy is not a valid JSON map."))?;
    let mandatory = |name: &str| {
        let reason = format!("Redrive policy does not contain mandatory attribute: {name}.");
        policy.get(name).ok_or_else(|| refused(&reason))
    };
    let target = mandatory("deadLetterTargetArn")?
        .as_str()
        .unwrap_or_default();
    let prefix = queue_arn(region, "");
    if target.strip_prefix(&prefix).is_none_or(str::is_empty) {
        return Err(refused("Invalid value for deadLetterTargetArn."));
    }
    // CloudFormation and the console write the number as a string.
    let count = match mandatory("maxReceiveCount")? {
        Value::String(text) => text.parse().ok(),
        other => other.as_i64(),
    };
    let count = count.filter(|it| (1..=1000).contains(it)).ok_or_else(|| {
        refused(
            "Invalid value for maxReceiveCount: valid values are from 1 to 1000 both inclusive.",
        )
    })?;
    Ok(json!({"deadLetterTargetArn": target, "maxReceiveCount": count}).to_string())
}

/// Checks a redrive allow policy and returns it normalised.
pub(super) fn parse_redrive_allow(value: &str) -> Result<String, Error> {
    const REFUSED: &str = "Amazon SQS can't create the redrive allow policy";
    let refused = |reason: &str| {
        Error::invalid_value(value, REDRIVE_ALLOW_POLICY, &format!("{REFUSED}{reason}"))
    };
    let policy: Value =
        serde_json::from_str(value).map_err(|_| refused(", as it’s in an unsupported format."))?;
    let sources = policy
        .get("sourceQueueArns")
        .map(|it| it.as_array().map_or(&[][..], Vec::as_slice));
    match (
        policy.get("redrivePermission").and_then(Value::as_str),
        sources,
    ) {
        (Some("allowAll" | "denyAll"), None) => {}
        (Some("allowAll" | "denyAll"), Some(_)) => {
            return Err(refused(
                ". To specify one or more source queue ARNs, you must set redrivePermission to byQueue.",
            ));
        }
        (Some("byQueue"), None | Some([])) => {
            return Err(refused(
                ". When you specify the byQueue permission type, you must also specify one or more sourceQueueArns values.",
            ));
        }
        (Some("byQueue"), Some(sources)) if sources.len() > 10 => {
            return Err(refused(". You can specify up to 10 source queue ARNs."));
        }
        (Some("byQueue"), Some(sources)) if sources.iter().all(Value::is_string) => {}
        _ => return Err(refused(", as it’s in an unsupported format.")),
    }
    Ok(policy.to_string())
}
