//! Replaces `poll` where there are no descriptors: Tokio waits for all replies.
use std::time::Duration;

use crate::pool::Waiting;

pub enum Polled {
    Some,
    Nothing,
    Interrupted,
}

pub fn poll(_: &[Waiting], _: Duration) -> Polled {
    Polled::Nothing
}
