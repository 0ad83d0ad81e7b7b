"""The names of OpenTelemetry's semantic conventions for messaging, and those of our own.

Written here, because the package that has them is not stable and only for those who build on it;
a test holds them against it.
"""

from typing import Final

SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
MESSAGE_ID: Final = "messaging.message.id"
BATCH_COUNT: Final = "messaging.batch.message_count"
ERROR_TYPE: Final = "error.type"

SENT_MESSAGES: Final = "messaging.client.sent.messages"
CONSUMED_MESSAGES: Final = "messaging.client.consumed.messages"
OPERATION_DURATION: Final = "messaging.client.operation.duration"
PROCESS_DURATION: Final = "messaging.process.duration"

KVQUEUE: Final = "kvqueue"
"""The messaging system."""
SEND: Final = "send"
PROCESS: Final = "process"

ATTEMPT: Final = "kvqueue.delivery.attempt"
OUTCOME: Final = "kvqueue.delivery.outcome"
WAITED_S: Final = "kvqueue.message.waited_s"
STATE: Final = "kvqueue.message.state"
WAIT_DURATION: Final = "kvqueue.message.wait.duration"
MESSAGES: Final = "kvqueue.messages"
OLDEST_AGE: Final = "kvqueue.message.oldest_age"
OLDEST_DUE: Final = "kvqueue.message.oldest_due"
LISTENERS: Final = "kvqueue.listeners"
CONTEXT_LEFT_OUT: Final = "kvqueue.context_left_out"

DURATION_BUCKETS_S: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
"""The convention's; an operation that takes longer than 10 s is no usual one."""
WAIT_BUCKETS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
    *(300.0, 900.0, 3_600.0, 14_400.0),
)
