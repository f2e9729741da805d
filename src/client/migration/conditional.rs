//! Commands that depend on the item: executed once, where it is.
use super::super::caller::Caller;
use super::super::client::Client;
use super::place::{Look, is_stub};
use super::settle::{Patience, Settled};
use super::state::{InFlight, Phase};
use super::step::{End, OwnedItem, OwnedReply};
use super::{Pending, Request};
use crate::protocol::meta::{MetaStatus, MetaVerb};
use crate::protocol::{
    ErrorLineKind, GenericCommand, OwnedCommand, OwnedRequest, RetrievalVerb, StorageVerb,
};

/// How often a command is executed that meets a move, or an item that was created meanwhile.
const ROUNDS: usize = 8;

impl<C: Caller> Client<C> {
    pub(super) async fn conditional(
        &self,
        guard: &InFlight,
        request: Request,
        pending: Pending<C>,
    ) {
        let Request { key, command: request, places, deadline } = request;
        let mut patience = Patience::new(self.context().now(), deadline);
        let mut last = None;
        for _ in 0..ROUNDS {
            if pending.is_abandoned() {
                return pending.dismiss();
            }
            let settled = self.settle(guard, &key, places, deadline, &mut patience).await;
            let (node, is_missing) = match settled {
                Settled::At(node, item) if is_gets(&request) => {
                    let from = self.pool(node).address().to_string().into();
                    let end = End::Replied { reply: OwnedReply::End, from };
                    return pending.finish(&key, Some(item), end);
                }
                Settled::At(node, _) => (node, false),
                Settled::Missing => (places.first(), true),
                Settled::Failed(end) => return pending.finish(&key, None, end),
            };
            let (item, end) = self.ask(node, request.clone(), deadline).end().await;
            if let Some(stub) = self.stub_met(node, &key, &request, item.as_ref(), &end).await {
                self.wait_for(node, &key, &stub, deadline, &mut patience).await;
                last = Some(end);
                continue;
            }
            let is_created = is_missing && creates(&request) && is_done(&end);
            if is_created && self.is_created_twice(guard, &key, places, deadline).await {
                last = Some(end);
                continue;
            }
            return pending.finish(&key, item, end);
        }
        let end = last.filter(|end| !is_done(end)).unwrap_or_else(|| {
            let from = self.pool(places.first()).address().to_string().into();
            End::Replied { reply: conflict(&request), from }
        });
        pending.finish(&key, None, end);
    }

    /// The stub that the command was executed on, if it was.
    async fn stub_met(
        &self,
        node: usize,
        key: &super::ItemKey,
        request: &OwnedRequest,
        item: Option<&OwnedItem>,
        end: &End,
    ) -> Option<OwnedItem> {
        let refused = matches!(
            end,
            End::Replied { reply: OwnedReply::Error { kind: ErrorLineKind::Client, .. }, .. }
        );
        let may_be_stub = item.is_some_and(is_stub) || (refused && is_arithmetic(request));
        if !may_be_stub {
            return None;
        }
        let deadline = self.deadline();
        match self.look(node, key, deadline).await {
            Look::Stub(stub) => Some(stub),
            // It was replaced in the meantime.
            _ => item.filter(|item| is_stub(item)).cloned(),
        }
    }

    /// Whether a process in a neighbouring phase has created the item at the other place at the
    /// same time. Then this one is removed.
    async fn is_created_twice(
        &self,
        guard: &InFlight,
        key: &super::ItemKey,
        places: super::Places,
        deadline: crate::protocol::Nanos,
    ) -> bool {
        let second = places.second();
        if places.phase == Phase::Finish
            || !guard.migration.may_read(second, key, self.context().now())
        {
            return false;
        }
        let Look::Item(_) = self.look(second, key, self.second_deadline(deadline)).await else {
            return false;
        };
        if let Look::Item(own) = self.look(places.first(), key, deadline).await {
            self.delete_at(places.first(), key, own.cas.unwrap_or(0), deadline).await;
        }
        true
    }
}

fn is_gets(request: &OwnedRequest) -> bool {
    matches!(request, OwnedRequest::Retrieval { verb: RetrievalVerb::Gets, .. })
}

fn is_arithmetic(request: &OwnedRequest) -> bool {
    let OwnedRequest::Command(command) = request else { return false };
    matches!(
        command,
        GenericCommand::Arithmetic { .. }
            | GenericCommand::Counter { .. }
            | GenericCommand::Meta { verb: MetaVerb::Arithmetic, .. }
    )
}

/// Whether the command creates a missing item.
fn creates(request: &OwnedRequest) -> bool {
    let OwnedRequest::Command(command) = request else { return false };
    match command {
        OwnedCommand::Storage { verb: StorageVerb::Add, .. } | OwnedCommand::Counter { .. } => true,
        OwnedCommand::Meta { verb, flags, .. } => {
            let has = |start: &str| flags.split(' ').any(|word| word.starts_with(start));
            has("N") || (*verb == MetaVerb::Set && (has("ME") || has("Me")))
        }
        _ => false,
    }
}

fn is_done(end: &End) -> bool {
    let End::Replied { reply, .. } = end else { return false };
    matches!(
        reply,
        OwnedReply::Stored
            | OwnedReply::Number(_)
            | OwnedReply::Meta { status: MetaStatus::Done | MetaStatus::Value, .. }
    )
}

/// The reply to a command that never found its item alone.
fn conflict(request: &OwnedRequest) -> OwnedReply {
    match request {
        OwnedRequest::Command(OwnedCommand::Meta { verb: MetaVerb::Get, .. }) => {
            OwnedReply::Meta { status: MetaStatus::Miss, flags: Box::default() }
        }
        OwnedRequest::Command(OwnedCommand::Meta { .. } | OwnedCommand::Counter { .. }) => {
            OwnedReply::Meta { status: MetaStatus::NotStored, flags: Box::default() }
        }
        OwnedRequest::Retrieval { .. } => OwnedReply::End,
        OwnedRequest::Command(OwnedCommand::Storage { .. }) => OwnedReply::NotStored,
        OwnedRequest::Command(_) => OwnedReply::NotFound,
    }
}
