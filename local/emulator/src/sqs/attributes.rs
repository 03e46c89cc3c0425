//! Queue attributes: their names, allowed values and defaults.
//!
//! **Invariant**: an [`Attributes`] holds only known names with valid, normalised values.

mod policy;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::{Code, Error};
use super::{ACCOUNT, queue_arn};

pub(crate) struct Number {
    name: &'static str,
    default: i64,
    min: i64,
    max: i64,
}

pub(crate) const DELAY_SECONDS: Number = Number {
    name: "DelaySeconds",
    default: 0,
    min: 0,
    max: 900,
};
pub(crate) const MAXIMUM_MESSAGE_SIZE: Number = Number {
    name: "MaximumMessageSize",
    default: 1 << 20,
    min: 1024,
    max: 1 << 20,
};
pub(crate) const RETENTION: Number = Number {
    name: "MessageRetentionPeriod",
    default: 345_600,
    min: 60,
    max: 1_209_600,
};
pub(crate) const WAIT_TIME: Number = Number {
    name: "ReceiveMessageWaitTimeSeconds",
    default: 0,
    min: 0,
    max: 20,
};
pub(crate) const VISIBILITY_TIMEOUT: Number = Number {
    name: "VisibilityTimeout",
    default: 30,
    min: 0,
    max: 43_200,
};
const KEY_REUSE: Number = Number {
    name: "KmsDataKeyReusePeriodSeconds",
    default: 300,
    min: 60,
    max: 86_400,
};

/// A queue shows all of these. It shows the key's reuse period only if that differs from the default.
const NUMBERS: [&Number; 6] = [
    &DELAY_SECONDS,
    &KEY_REUSE,
    &MAXIMUM_MESSAGE_SIZE,
    &RETENTION,
    &WAIT_TIME,
    &VISIBILITY_TIMEOUT,
];

const REDRIVE_POLICY: &str = "RedrivePolicy";
const REDRIVE_ALLOW_POLICY: &str = "RedriveAllowPolicy";
const MANAGED_ENCRYPTION: &str = "SqsManagedSseEnabled";
const KMS_KEY: &str = "KmsMasterKeyId";

/// Attributes that can be read but not set.
pub(crate) const COMPUTED: [&str; 6] = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
    "CreatedTimestamp",
    "LastModifiedTimestamp",
    "QueueArn",
];

/// Attributes of FIFO queues, which this endpoint doesn't have.
const FIFO: [&str; 4] = [
    "ContentBasedDeduplication",
    "DeduplicationScope",
    "FifoQueue",
    "FifoThroughputLimit",
];

/// The attributes that were set explicitly on a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Attributes(BTreeMap<String, String>);

/// Where messages go after too many receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RedrivePolicy {
    pub(crate) target: String,
    pub(crate) max_receive_count: i64,
}

impl Attributes {
    /// Checks the attributes that a caller wants to set. A policy with an empty value stays in the result: it is to be
    /// removed.
    pub(crate) fn parse(requested: &BTreeMap<String, String>, region: &str) -> Result<Self, Error> {
        let mut attributes = BTreeMap::new();
        for (name, value) in requested {
            let value = match name.as_str() {
                _ if let Some(number) = NUMBERS.into_iter().find(|it| it.name == name) => {
                    number.parse(value)?.to_string()
                }
                REDRIVE_POLICY | REDRIVE_ALLOW_POLICY | "Policy" | KMS_KEY if value.is_empty() => {
                    String::new()
                }
                REDRIVE_POLICY => policy::parse_redrive(value, region)?,
                REDRIVE_ALLOW_POLICY => policy::parse_redrive_allow(value)?,
                "Policy" if serde_json::from_str::<Value>(value).is_ok_and(|it| it.is_object()) => {
                    value.clone()
                }
                KMS_KEY => value.clone(),
                MANAGED_ENCRYPTION if matches!(value.as_str(), "true" | "false") => value.clone(),
                "Policy" | MANAGED_ENCRYPTION => return Err(invalid(name)),
                "DeduplicationScope" | "FifoThroughputLimit" => {
                    let message =
                        format!("You can specify the {name} only when FifoQueue is set to true.");
                    return Err(Error::new(Code::InvalidAttributeName, message));
                }
                _ => return Err(unknown(name)),
            };
            attributes.insert(name.clone(), value);
        }
        if attributes.get(KMS_KEY).is_some_and(|it| !it.is_empty())
            && attributes
                .get(MANAGED_ENCRYPTION)
                .is_some_and(|it| it == "true")
        {
            let message = "You can use one type of server-side encryption (SSE) at one time. You can either enable KMS SSE or SQS SSE.";
            return Err(Error::new(Code::InvalidAttributeName, message));
        }
        Ok(Self(attributes))
    }

    /// Applies `changes`, then drops empty values and a default that isn't shown.
    pub(crate) fn update(&mut self, changes: Self) {
        if changes.0.get(KMS_KEY).is_some_and(|it| !it.is_empty()) {
            self.0
                .insert(MANAGED_ENCRYPTION.to_owned(), "false".to_owned());
        }
        self.0.extend(changes.0);
        let reuse_default = KEY_REUSE.default.to_string();
        self.0.retain(|name, value| {
            !value.is_empty() && (name != KEY_REUSE.name || *value != reuse_default)
        });
    }

    /// Returns the first attribute of `wanted` that has another value in this queue.
    pub(crate) fn conflict<'a>(&self, wanted: &'a Self) -> Option<&'a str> {
        let differs = |(name, value): &(&String, &String)| {
            self.get(name).as_deref().unwrap_or("") != value.as_str()
        };
        wanted.0.iter().find(differs).map(|(name, _)| name.as_str())
    }

    /// Returns an attribute's value, or its default if it has one.
    fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned().or_else(|| match name {
            MANAGED_ENCRYPTION => Some("true".to_owned()),
            _ => NUMBERS
                .into_iter()
                .find(|it| it.name == name)
                .map(|it| it.default.to_string()),
        })
    }

    pub(crate) fn number(&self, number: &Number) -> i64 {
        self.0
            .get(number.name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(number.default)
    }

    pub(crate) fn redrive_policy(&self) -> Option<RedrivePolicy> {
        let policy: Value = serde_json::from_str(self.0.get(REDRIVE_POLICY)?).ok()?;
        let target = policy
            .get("deadLetterTargetArn")?
            .as_str()?
            .rsplit(':')
            .next()?
            .to_owned();
        Some(RedrivePolicy {
            target,
            max_receive_count: policy.get("maxReceiveCount")?.as_i64()?,
        })
    }

    /// Returns whether the queue `source` may use this one as its dead-letter queue.
    pub(crate) fn allows_redrive_from(&self, source: &str, region: &str) -> bool {
        let Some(policy) = self.0.get(REDRIVE_ALLOW_POLICY) else {
            return true;
        };
        let policy: Value = serde_json::from_str(policy).unwrap_or_default();
        match policy.get("redrivePermission").and_then(Value::as_str) {
            Some("byQueue") => policy
                .get("sourceQueueArns")
                .and_then(Value::as_array)
                .is_some_and(|arns| arns.contains(&json!(queue_arn(region, source)))),
            Some("denyAll") => false,
            _ => true,
        }
    }

    /// Returns every attribute that is set or has a default.
    pub(crate) fn all(&self) -> BTreeMap<String, String> {
        let defaults = NUMBERS
            .into_iter()
            .map(|it| it.name)
            .filter(|it| *it != KEY_REUSE.name)
            .chain([MANAGED_ENCRYPTION]);
        let mut all: BTreeMap<_, _> = defaults
            .filter_map(|it| Some((it.to_owned(), self.get(it)?)))
            .collect();
        all.extend(self.0.clone());
        all
    }
}

impl Number {
    fn parse(&self, value: &str) -> Result<i64, Error> {
        let number = value.parse().map_err(|_| invalid(self.name))?;
        if (self.min..=self.max).contains(&number) {
            Ok(number)
        } else {
            Err(invalid(self.name))
        }
    }

    /// Checks a value that came with a request. Without one, returns the queue's value.
    pub(crate) fn or_given(
        &self,
        given: Option<i64>,
        parameter: &str,
        queue: &Attributes,
    ) -> Result<i64, Error> {
        let (min, max) = (self.min, self.max);
        match given {
            None => Ok(queue.number(self)),
            Some(number) if (min..=max).contains(&number) => Ok(number),
            Some(number) if parameter == DELAY_SECONDS.name => Err(Error::invalid_value(
                number,
                parameter,
                &format!("{parameter} must be >= {min} and <= {max}."),
            )),
            Some(number) => Err(Error::invalid_value(
                number,
                parameter,
                &format!("Must be >= {min} and <= {max}, if provided."),
            )),
        }
    }
}

/// Checks the names in a `GetQueueAttributes` request.
pub(crate) fn check_names(names: &[String]) -> Result<(), Error> {
    let settable = |name: &str| {
        NUMBERS.into_iter().any(|it| it.name == name)
            || FIFO.contains(&name)
            || matches!(
                name,
                REDRIVE_POLICY | REDRIVE_ALLOW_POLICY | "Policy" | KMS_KEY | MANAGED_ENCRYPTION
            )
    };
    let known = |name: &str| name == "All" || COMPUTED.contains(&name) || settable(name);
    names
        .iter()
        .find(|name| !known(name))
        .map_or(Ok(()), |name| Err(unknown(name)))
}

pub(crate) fn unknown(name: &str) -> Error {
    Error::new(
        Code::InvalidAttributeName,
        format!("Unknown Attribute {name}."),
    )
}

pub(crate) fn no_fifo() -> Error {
    Error::new(
        Code::UnsupportedOperation,
        "This endpoint has standard queues only: FIFO queues are not supported.",
    )
}

fn invalid(name: &str) -> Error {
    Error::new(
        Code::InvalidAttributeValue,
        format!("Invalid value for the parameter {name}."),
    )
}

/// Returns the queue's name if `arn` names a queue of this account and region.
pub(crate) fn name_in_arn<'a>(arn: &'a str, region: &str) -> Option<&'a str> {
    arn.strip_prefix("arn:aws:sqs:")?
        .strip_prefix(region)?
        .strip_prefix(':')?
        .strip_prefix(ACCOUNT)?
        .strip_prefix(':')
}
