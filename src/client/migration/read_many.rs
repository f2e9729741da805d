//! `get_many`: lines to the first places, then lines for the keys that are missing.
use std::rc::Rc;

use bytes::Bytes;

use super::super::caller::Caller;
use super::super::client::Client;
use super::super::gather::{Gather, Line};
use super::super::handler::Handler;
use super::super::outcome::{Failure, FailureKind, Outcome};
use super::place::{get, is_stub};
use super::read::LOOKS;
use super::state::{InFlight, Migration, Phase, Places};
use super::step::{End, OwnedItem, OwnedReply};
use super::{ItemKey, Pending, Request};
use crate::cluster::ClusterError;
use crate::protocol::{Key, Nanos, OwnedRequest, ReplyHandler, RetrievalVerb};

/// The keys of one line, with their places and what was found.
struct PlacedLine {
    keys: Vec<ItemKey>,
    places: Vec<Places>,
    found: Vec<Option<OwnedItem>>,
    /// The failure of each key.
    failures: Vec<Option<Failure>>,
}

impl<C: Caller> Client<C> {
    /// Splits the keys into lines: those that have one place, as without a migration, and the rest.
    pub(in crate::client) fn get_many_migrating(
        &self,
        migration: &Rc<Migration>,
        verb: RetrievalVerb,
        keys: &[Key<'_>],
        deadline: Nanos,
        gather: &Rc<Gather<C>>,
    ) -> Result<(), ClusterError> {
        let places: Vec<_> = keys.iter().map(|key| self.places(migration, *key)).collect();
        let select = |is_moving: bool| {
            let is_selected = |at: &usize| places[*at].is_some() == is_moving;
            (0..keys.len()).filter(is_selected).collect::<Vec<_>>()
        };
        let (settled, moving) = (select(false), select(true));
        let lines = self.lines_of(verb, keys, &settled, |key| self.cluster().index_for(key))?;
        let first = |key: Key<'_>| {
            let places = self.places(migration, key);
            places.map_or_else(|| self.cluster().index_for(key), |places| Ok(places.first()))
        };
        let is_plain = verb == RetrievalVerb::Get;
        let moving_lines = if is_plain {
            self.lines_of(verb, keys, &moving, first)?
        } else {
            moving.iter().map(|at| (0, vec![*at])).collect()
        };
        gather.expect_lines(lines.len() + moving_lines.len());
        let handler = |positions: Vec<usize>| {
            let line = Line::new(Some(positions.clone()), positions.len());
            Handler::Line { gather: gather.clone(), line }
        };
        for (node, positions) in lines {
            let keys = positions.iter().map(|at| copied(keys[*at])).collect();
            let request = OwnedRequest::Retrieval { verb, keys };
            self.cluster().pool(node).submit_owned(request, handler(positions), deadline);
        }
        for (node, positions) in moving_lines {
            let of = |at: &usize| {
                Some((ItemKey { text: copied(keys[*at]), is_base64: false }, places[*at]?))
            };
            let pairs: Vec<_> = positions.iter().filter_map(of).collect();
            let handler = handler(positions);
            let Some(phase) = pairs.first().map(|(_, places)| places.phase) else { continue };
            let (client, guard) = (self.clone(), InFlight::new(migration, phase));
            let pending = Pending::new(self, handler);
            if is_plain {
                let line = PlacedLine::new(pairs);
                self.run_now(async move {
                    client.read_line(&guard, node, line, pending, deadline).await;
                });
            } else if let Some((key, places)) = pairs.into_iter().next() {
                let keys = [key.text.clone()].into_iter().collect();
                let request = OwnedRequest::Retrieval { verb, keys };
                let request = Request { key, command: request, places, deadline };
                self.run_now(async move { client.conditional(&guard, request, pending).await });
            }
        }
        Ok(())
    }

    /// Lines of the keys at these positions, each with the positions of its keys.
    fn lines_of(
        &self,
        verb: RetrievalVerb,
        keys: &[Key<'_>],
        positions: &[usize],
        node_for: impl Fn(Key<'_>) -> Result<usize, ClusterError>,
    ) -> Result<Vec<(usize, Vec<usize>)>, ClusterError> {
        let selected: Vec<_> = positions.iter().map(|at| keys[*at]).collect();
        let lines = self.cluster().lines_by(verb, &selected, node_for)?;
        let original = |line: Option<Vec<usize>>| match line {
            None => positions.to_vec(),
            Some(line) => line.into_iter().map(|at| positions[at]).collect(),
        };
        Ok(lines.into_iter().map(|(node, line)| (node, original(line))).collect())
    }

    async fn read_line(
        &self,
        guard: &InFlight,
        node: usize,
        mut line: PlacedLine,
        pending: Pending<C>,
        deadline: Nanos,
    ) {
        let all: Vec<_> = (0..line.keys.len()).collect();
        self.read_keys(node, &mut line, &all, true, deadline).await;
        let moving: Vec<_> = all
            .iter()
            .copied()
            .filter(|at| line.found[*at].as_ref().is_some_and(is_stub))
            .collect();
        line.drop_stubs();
        self.read_second_line(guard, &mut line, deadline).await;
        let mut round = 0;
        loop {
            let missing: Vec<_> =
                moving.iter().copied().filter(|at| line.found[*at].is_none()).collect();
            if missing.is_empty() || round == LOOKS || pending.is_abandoned() {
                break;
            }
            self.pause_round(round).await;
            self.read_keys(node, &mut line, &missing, false, deadline).await;
            line.drop_stubs();
            round += 1;
        }
        if let Some(handler) = pending.take() {
            line.finish(handler);
        }
    }

    async fn read_second_line(&self, guard: &InFlight, line: &mut PlacedLine, deadline: Nanos) {
        let migration = &guard.migration;
        let now = self.context().now();
        let is_wanted = |at: &usize| {
            let places = line.places[*at];
            line.found[*at].is_none()
                && line.failures[*at].is_none()
                && places.phase != Phase::Finish
                && migration.may_read(places.second(), &line.keys[*at], now)
        };
        let mut wanted: Vec<_> = (0..line.keys.len()).filter(is_wanted).collect();
        wanted.sort_by_key(|at| line.places[*at].second());
        let deadline = self.second_deadline(deadline);
        let mut asked = Vec::new();
        for group in wanted.chunk_by(|a, b| line.places[*a].second() == line.places[*b].second()) {
            let node = line.places[group[0]].second();
            let keys: Vec<_> = group.iter().map(|at| line.keys[*at].as_key()).collect();
            let Ok(lines) = self.cluster().lines_by(RetrievalVerb::Get, &keys, |_| Ok(node)) else {
                continue;
            };
            for (node, positions) in lines {
                let indexes: Vec<_> = match positions {
                    None => group.to_vec(),
                    Some(positions) => positions.into_iter().map(|at| group[at]).collect(),
                };
                let request = line.request(&indexes);
                asked.push((node, self.ask(node, request, deadline), indexes));
            }
        }
        for (node, asked, indexes) in asked {
            let answer = asked.await;
            if answer.ends.iter().any(|(_, end)| !is_end(end)) {
                migration.pause(node, self.context().now());
            }
            for (index, item) in answer.items {
                let at = indexes[index];
                if !is_stub(&item) {
                    self.hit_second(guard, &line.keys[at], line.places[at], &item);
                    line.found[at] = Some(item);
                }
            }
        }
    }

    /// Asks a node for the keys with these indexes.
    async fn read_keys(
        &self,
        node: usize,
        line: &mut PlacedLine,
        indexes: &[usize],
        keeps_failures: bool,
        deadline: Nanos,
    ) {
        let answer = self.ask(node, line.request(indexes), deadline).await;
        for (index, item) in answer.items {
            line.found[indexes[index]] = Some(item);
        }
        for (index, end) in answer.ends {
            let Some(failure) = failure(end) else { continue };
            if !keeps_failures {
                continue;
            }
            let failed = index.map_or_else(|| indexes.to_vec(), |index| vec![indexes[index]]);
            for at in failed {
                line.failures[at] = Some(failure.clone());
            }
        }
    }
}

impl PlacedLine {
    fn new(pairs: Vec<(ItemKey, Places)>) -> Self {
        let (keys, places): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let count = keys.len();
        Self { keys, places, found: vec![None; count], failures: vec![None; count] }
    }

    fn request(&self, indexes: &[usize]) -> OwnedRequest {
        if let [only] = indexes {
            return get(RetrievalVerb::Get, &self.keys[*only]);
        }
        let keys = indexes.iter().map(|at| self.keys[*at].text.clone()).collect();
        OwnedRequest::Retrieval { verb: RetrievalVerb::Get, keys }
    }

    fn drop_stubs(&mut self) {
        for found in &mut self.found {
            if found.as_ref().is_some_and(is_stub) {
                *found = None;
            }
        }
    }

    fn finish<C: Caller>(self, mut handler: Handler<C>) {
        let Self { keys, found, failures, .. } = self;
        for (index, (key, item)) in keys.iter().zip(&found).enumerate() {
            if let Some(item) = item {
                handler.item(index, &item.as_ref(&key.text), None);
            }
        }
        let Handler::Line { gather, line } = handler else { return };
        let failures: Vec<_> = failures.into_iter().enumerate().collect();
        let failed: Vec<_> =
            failures.iter().filter(|(_, f)| f.is_some()).map(|(at, _)| *at).collect();
        if failed.is_empty() {
            return gather.line_done(line);
        }
        let lines = gather.split_line(line, &failed);
        for (line, failure) in lines.into_iter().zip(failures.into_iter().filter_map(|(_, f)| f)) {
            gather.line_failed(line, failure);
        }
    }
}

fn copied(key: Key<'_>) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}

fn is_end(end: &End) -> bool {
    matches!(end, End::Replied { reply: OwnedReply::End, .. })
}

fn failure(end: End) -> Option<Failure> {
    let verb = RetrievalVerb::Get.verb();
    match end {
        End::Replied { reply, from } => {
            match Outcome::<()>::from_reply(verb, &reply.as_reply(), &from) {
                Outcome::Failed(failure) => Some(*failure),
                _ => None,
            }
        }
        End::Failed(kind) => Some(Failure::new(Some(verb), kind)),
    }
}

impl<C: Caller> Client<C> {
    /// No node can have the keys.
    pub(in crate::client) fn no_nodes(
        gather: &Gather<C>,
        verb: RetrievalVerb,
        error: ClusterError,
    ) {
        gather.fail_whole(Failure::new(Some(verb.verb()), FailureKind::NoNodes(error)));
    }
}
