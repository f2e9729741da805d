//! The reply to a meta command.
use crate::protocol::meta::{MetaAttributes, MetaStatus};

/// Conditions that did not hold are replies, not failures.
#[derive(Debug)]
pub struct MetaReply<I> {
    pub status: MetaStatus,
    /// As the server sent them; of `ME`, the text.
    pub flags: Box<[u8]>,
    /// The value of [`MetaStatus::Value`].
    pub item: Option<I>,
}

impl<I> MetaReply<I> {
    pub fn attributes(&self) -> MetaAttributes {
        MetaAttributes::parse(&self.flags).unwrap_or_default()
    }

    pub(super) fn map<J>(self, convert: impl FnMut(I) -> J) -> MetaReply<J> {
        MetaReply { status: self.status, flags: self.flags, item: self.item.map(convert) }
    }
}
