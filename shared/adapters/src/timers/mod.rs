//! Timers of calls: delayed SQS messages, and EventBridge schedules as the backstop.
//!
//! An SQS message fires to the second, but SQS delays a message for 15 minutes at most. A schedule may be days away, but
//! fires up to 60 s late (<https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html>), which is too
//! late to end a ring of 30 s. So a ring gets both: the message ends it, and the schedule fires if there is no message.
//!
//! The process that handles the call sends the message. It may fail between storing the call and that request, so another
//! one creates the schedule: `broadcast`, which gets every new call from the table's stream. If the scheduler rejects the
//! schedule, `broadcast` sends a delayed message instead.
//!
//! Both bring a [`TimerMessage`] to the function `call-timeout`. The first one acts; the second finds nothing to do.

mod call_timers;
mod timer_message;

pub use call_timers::{CallTimers, TimerError};
pub use timer_message::TimerMessage;
