//! What became of a record that was handed to librdkafka.

use std::sync::atomic::Ordering;

use rdkafka::bindings as rd;
use rdkafka::error::RDKafkaErrorCode as E;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::ProducerContext;
use tokio::sync::oneshot;

use super::health::WriterContext;
use crate::{ProduceError, Produced, Written};

pub type Outcome = Result<Produced, Failure>;

/// Why librdkafka gave a record up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: E,
    pub written: Written,
}

impl ProducerContext for WriterContext {
    type DeliveryOpaque = Box<oneshot::Sender<Outcome>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        let outcome = match result {
            Ok(message) => {
                let offset = message.offset();
                let timestamp_ms = message.timestamp().to_millis().unwrap_or(-1);
                Ok(Produced { partition: message.partition(), offset: (offset >= 0).then_some(offset), timestamp_ms })
            }
            Err((error, message)) => {
                // SAFETY: the message is alive during the callback.
                let status = unsafe { rd::rd_kafka_message_status(message.ptr()) };
                let kept_out = status == rd::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED;
                let written = if kept_out { Written::No } else { Written::Maybe };
                Err(Failure { code: error.rdkafka_error_code().unwrap_or(E::Unknown), written })
            }
        };
        if outcome.is_err_and(|failure| failure.code == E::Fatal) {
            self.broken.store(true, Ordering::Release);
        }
        // Nobody waits any more when a request was given up.
        let _ = waiting.send(outcome);
    }
}

/// The error for a client, by who is to blame.
pub fn classify(failure: Failure, topic: &str, partition: Option<i32>, limit_bytes: Option<u64>) -> ProduceError {
    let Failure { code, written } = failure;
    let reason = code.to_string();
    let topic = topic.to_owned();
    match code {
        E::UnknownPartition => match partition {
            Some(partition) => ProduceError::UnknownPartition { topic, partition },
            None => ProduceError::UnknownTopic { topic },
        },
        E::UnknownTopic | E::UnknownTopicOrPartition | E::UnknownTopicId => ProduceError::UnknownTopic { topic },
        E::MessageSizeTooLarge | E::InvalidMessageSize | E::MessageBatchTooLarge => ProduceError::TooLarge { limit_bytes },
        E::InvalidRecord
        | E::InvalidMessage
        | E::InvalidTimestamp
        | E::InvalidTopic
        | E::InvalidArgument
        | E::UnsupportedForMessageFormat
        | E::PolicyViolation => ProduceError::Invalid { reason },
        E::QueueFull => ProduceError::QueueFull,
        E::TopicAuthorizationFailed | E::ClusterAuthorizationFailed => ProduceError::NotAuthorized { reason },
        E::MessageTimedOut | E::RequestTimedOut => ProduceError::TimedOut { reason, written },
        // The leader has the record, its followers have not: it may yet be lost, or stay.
        E::NotEnoughReplicasAfterAppend => ProduceError::Unavailable { reason, written: Written::Maybe },
        _ => ProduceError::Unavailable { reason, written },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_who_is_to_blame() {
        let check = |code: E, written: Written, partition: Option<i32>, expected: &str| {
            let error = classify(Failure { code, written }, "t", partition, Some(9));
            let shown = format!("{error:?}");
            let variant = shown.split([' ', '{']).next().unwrap_or_default();
            assert_eq!(format!("{variant} {:?}", error.written()), expected, "{code:?}");
        };
        let (no, maybe) = (Written::No, Written::Maybe);
        check(E::UnknownTopicOrPartition, no, None, "UnknownTopic No");
        check(E::UnknownPartition, no, Some(7), "UnknownPartition No");
        check(E::UnknownPartition, no, None, "UnknownTopic No");
        check(E::MessageSizeTooLarge, no, None, "TooLarge No");
        check(E::InvalidRecord, no, None, "Invalid No");
        check(E::QueueFull, no, None, "QueueFull No");
        check(E::TopicAuthorizationFailed, no, None, "NotAuthorized No");
        check(E::MessageTimedOut, maybe, None, "TimedOut Maybe");
        check(E::MessageTimedOut, no, None, "TimedOut No");
        check(E::NotEnoughReplicas, no, None, "Unavailable No");
        check(E::NotEnoughReplicasAfterAppend, no, None, "Unavailable Maybe");
        check(E::PurgeInflight, maybe, None, "Unavailable Maybe");
        check(E::Fatal, no, None, "Unavailable No");
        check(E::Authentication, no, None, "Unavailable No");
    }
}
