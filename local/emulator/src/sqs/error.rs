//! Errors with SQS's names.

use std::sync::Arc;

use http::StatusCode;

use crate::cause::Cause;

/// Why a queue operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// SQS refuses the request. Code and text are AWS's.
    #[error("{message}")]
    Refused { code: Code, message: String },
    /// SQLite failed, and nothing was changed.
    #[error("could not read or write the queue file")]
    Sql(#[source] Arc<rusqlite::Error>),
    /// A row holds content that this program never writes.
    #[error("could not understand a row of the queue file")]
    Row(#[source] Arc<serde_json::Error>),
    /// The store's thread has ended.
    #[error("the queue store has stopped")]
    Stopped,
}

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self::Refused {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn missing_parameter(name: &str) -> Self {
        Self::new(
            Code::MissingParameter,
            format!("The request must contain the parameter {name}."),
        )
    }

    pub(crate) fn invalid_value(
        value: impl std::fmt::Display,
        parameter: &str,
        reason: &str,
    ) -> Self {
        let message =
            format!("Value {value} for parameter {parameter} is invalid. Reason: {reason}");
        Self::new(Code::InvalidParameterValue, message)
    }

    pub(crate) fn no_such_queue() -> Self {
        Self::new(
            Code::QueueDoesNotExist,
            "The specified queue does not exist.",
        )
    }

    pub(crate) fn unavailable() -> Self {
        Self::new(
            Code::ServiceUnavailable,
            "The request has failed due to a temporary failure of the server.",
        )
    }

    /// Why the queue file can't be used.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Sql(err) => Cause::of(err),
            Self::Row(_) => Cause::Damaged,
            Self::Refused { .. } | Self::Stopped => Cause::Unavailable,
        }
    }

    /// Returns whether SQS refused with this code.
    pub fn is(&self, expected: Code) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == expected)
    }
}

impl From<rusqlite::Error> for Error {
    fn from(err: rusqlite::Error) -> Self {
        Self::Sql(Arc::new(err))
    }
}

impl From<serde_json::Error> for Error {
    fn from(err: serde_json::Error) -> Self {
        Self::Row(Arc::new(err))
    }
}

macro_rules! codes {
    ($($code:ident $shape:literal $query:literal $status:ident,)*) => {
        /// SQS's names of its errors.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $($code,)*
        }

        impl Code {
            /// The `__type` of the error's body.
            pub(crate) fn shape(self) -> &'static str {
                match self { $(Self::$code => $shape,)* }
            }

            /// The name in the header `x-amzn-query-error`, by which SDKs recognise the error.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$code => $query,)* }
            }

            pub(crate) fn status(self) -> StatusCode {
                match self { $(Self::$code => StatusCode::$status,)* }
            }
        }
    };
}

codes! {
    BatchEntryIdsNotDistinct "com.amazonaws.sqs#BatchEntryIdsNotDistinct" "AWS.SimpleQueueService.BatchEntryIdsNotDistinct" BAD_REQUEST,
    BatchRequestTooLong "com.amazonaws.sqs#BatchRequestTooLong" "AWS.SimpleQueueService.BatchRequestTooLong" BAD_REQUEST,
    EmptyBatchRequest "com.amazonaws.sqs#EmptyBatchRequest" "AWS.SimpleQueueService.EmptyBatchRequest" BAD_REQUEST,
    InternalFailure "com.amazon.coral.service#InternalFailure" "InternalFailure" INTERNAL_SERVER_ERROR,
    InvalidAddress "com.amazonaws.sqs#InvalidAddress" "InvalidAddress" NOT_FOUND,
    InvalidAttributeName "com.amazonaws.sqs#InvalidAttributeName" "InvalidAttributeName" BAD_REQUEST,
    InvalidAttributeValue "com.amazonaws.sqs#InvalidAttributeValue" "InvalidAttributeValue" BAD_REQUEST,
    InvalidBatchEntryId "com.amazonaws.sqs#InvalidBatchEntryId" "AWS.SimpleQueueService.InvalidBatchEntryId" BAD_REQUEST,
    InvalidMessageContents "com.amazonaws.sqs#InvalidMessageContents" "InvalidMessageContents" BAD_REQUEST,
    InvalidParameterValue "com.amazon.coral.service#InvalidParameterValueException" "InvalidParameterValue" BAD_REQUEST,
    MissingParameter "com.amazon.coral.service#MissingRequiredParameterException" "MissingParameter" BAD_REQUEST,
    OverLimit "com.amazonaws.sqs#OverLimit" "OverLimit" FORBIDDEN,
    PurgeQueueInProgress "com.amazonaws.sqs#PurgeQueueInProgress" "AWS.SimpleQueueService.PurgeQueueInProgress" FORBIDDEN,
    QueueDeletedRecently "com.amazonaws.sqs#QueueDeletedRecently" "AWS.SimpleQueueService.QueueDeletedRecently" BAD_REQUEST,
    QueueDoesNotExist "com.amazonaws.sqs#QueueDoesNotExist" "AWS.SimpleQueueService.NonExistentQueue" BAD_REQUEST,
    QueueNameExists "com.amazonaws.sqs#QueueNameExists" "QueueAlreadyExists" BAD_REQUEST,
    ReceiptHandleIsInvalid "com.amazonaws.sqs#ReceiptHandleIsInvalid" "ReceiptHandleIsInvalid" NOT_FOUND,
    RequestThrottled "com.amazonaws.sqs#RequestThrottled" "RequestThrottled" FORBIDDEN,
    ResourceNotFound "com.amazonaws.sqs#ResourceNotFoundException" "ResourceNotFoundException" NOT_FOUND,
    Serialization "com.amazon.coral.service#SerializationException" "SerializationException" BAD_REQUEST,
    ServiceUnavailable "com.amazonaws.sqs#ServiceUnavailable" "ServiceUnavailable" SERVICE_UNAVAILABLE,
    TooManyEntriesInBatchRequest "com.amazonaws.sqs#TooManyEntriesInBatchRequest" "AWS.SimpleQueueService.TooManyEntriesInBatchRequest" BAD_REQUEST,
    UnsupportedOperation "com.amazonaws.sqs#UnsupportedOperation" "AWS.SimpleQueueService.UnsupportedOperation" BAD_REQUEST,
}
