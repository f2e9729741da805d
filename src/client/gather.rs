//! A call for many keys: lines to many nodes, one outcome.
use std::cell::{Cell, RefCell};

use super::caller::Caller;
use super::outcome::{Failure, Outcome};
use crate::protocol::{ItemRef, Verb};

/// Completes when all its lines have ended, or when the first one fails. A partial gather does not
/// end at a failure.
pub struct Gather<C: Caller> {
    /// `None` once it is completed.
    caller: RefCell<Option<C>>,
    verb: Verb,
    /// Whether the items that arrived are returned even if other keys failed.
    is_partial: bool,
    missing_lines: Cell<usize>,
    gathered: RefCell<Gathered<C::Item>>,
}

/// The items of one line, each with the index of its key in the line.
#[derive(Debug)]
pub struct Line<I> {
    /// The positions of its keys among those of the call; `None` if it has all keys, in order.
    positions: Option<Vec<usize>>,
    items: Vec<(usize, I)>,
}

/// The items and errors of a call for many keys.
#[derive(Debug)]
pub struct Gathered<I> {
    lines: Vec<Line<I>>,
    /// The positions of keys that failed, with the reason; `None` stands for all keys that did not
    /// arrive.
    failures: Vec<(Option<Vec<usize>>, Failure)>,
}

impl<I> Line<I> {
    pub fn new(positions: Option<Vec<usize>>, keys: usize) -> Self {
        Self { positions, items: Vec::with_capacity(keys) }
    }

    /// The position of a key of this line among those of the call.
    fn position(&self, index: usize) -> usize {
        self.positions.as_ref().map_or(index, |positions| positions[index])
    }

    pub fn restart(&mut self) {
        self.items.clear();
    }

    /// The items, each with the position of its key among those of the call.
    #[inline]
    pub fn into_items(self) -> impl Iterator<Item = (usize, I)> {
        let Self { positions, items } = self;
        items.into_iter().map(move |(index, item)| {
            (positions.as_ref().map_or(index, |positions| positions[index]), item)
        })
    }
}

impl<I> Gathered<I> {
    /// Removes the items, by line.
    pub fn take_lines(&mut self) -> Vec<Line<I>> {
        std::mem::take(&mut self.lines)
    }

    /// The positions of the keys of each line that failed, with the reason; `None` stands for all
    /// keys of the call. Items of some of these keys may have arrived before the failure.
    pub fn failures(&self) -> impl Iterator<Item = (Option<&[usize]>, &Failure)> {
        self.failures.iter().map(|(positions, failure)| (positions.as_deref(), failure))
    }

    pub(super) fn map<J>(self, mut convert: impl FnMut(I) -> J) -> Gathered<J> {
        let mut convert_line = |Line { positions, items }| {
            let items = items.into_iter().map(|(index, item)| (index, convert(item))).collect();
            Line { positions, items }
        };
        let lines = self.lines.into_iter().map(&mut convert_line).collect();
        Gathered { lines, failures: self.failures }
    }
}

impl<C: Caller> Gather<C> {
    pub fn new(caller: C, verb: Verb, is_partial: bool) -> Self {
        Self {
            caller: RefCell::new(Some(caller)),
            verb,
            is_partial,
            missing_lines: Cell::new(0),
            gathered: RefCell::new(Gathered { lines: Vec::new(), failures: Vec::new() }),
        }
    }

    pub fn verb(&self) -> Verb {
        self.verb
    }

    /// Announces the number of lines that will be sent. With 0 the call completes.
    pub fn expect_lines(&self, count: usize) {
        self.missing_lines.set(count);
        self.gathered.borrow_mut().lines.reserve_exact(count);
        if count == 0 {
            self.complete();
        }
    }

    /// Fails all keys, because there is no node for them.
    pub fn fail_whole(&self, failure: Failure) {
        if self.is_partial {
            self.gathered.borrow_mut().failures.push((None, failure));
            self.complete();
        } else if let Some(caller) = self.caller.take() {
            caller.complete(Outcome::Failed(Box::new(failure)));
        }
    }

    #[inline]
    pub fn item(
        &self,
        line: &mut Line<C::Item>,
        index: usize,
        item: &ItemRef<'_>,
        shared: Option<&C::Value>,
    ) {
        let caller = self.caller.borrow();
        let Some(caller) = caller.as_ref() else { return };
        let item = if line.items.is_empty() {
            caller.item(item, shared)
        } else {
            caller.next_item(item, shared)
        };
        if let Some(item) = item {
            line.items.push((index, item));
        }
    }

    pub fn is_abandoned(&self) -> bool {
        self.caller.borrow().as_ref().is_none_or(Caller::is_abandoned)
    }

    pub fn line_done(&self, line: Line<C::Item>) {
        self.gathered.borrow_mut().lines.push(line);
        self.missing_lines.set(self.missing_lines.get() - 1);
        if self.missing_lines.get() == 0 {
            self.complete();
        }
    }

    pub fn line_failed(&self, line: Line<C::Item>, failure: Failure) {
        if self.is_partial {
            let positions = line.positions.clone();
            self.gathered.borrow_mut().failures.push((positions, failure));
            self.line_done(line);
        } else if let Some(caller) = self.caller.take() {
            caller.complete(Outcome::Failed(Box::new(failure)));
        }
    }

    /// Replaces a line by one line for each key whose index in it is in `missing`, in that order.
    /// Items of the other keys are kept.
    pub fn split_line(&self, line: Line<C::Item>, missing: &[usize]) -> Vec<Line<C::Item>> {
        let alone = |index: &usize| Line::new(Some(vec![line.position(*index)]), 1);
        let lines = missing.iter().map(alone).collect();
        self.missing_lines.set(self.missing_lines.get() + missing.len());
        self.line_done(line);
        lines
    }

    fn complete(&self) {
        if let Some(caller) = self.caller.take() {
            let empty = Gathered { lines: Vec::new(), failures: Vec::new() };
            caller.complete(Outcome::Items(Box::new(self.gathered.replace(empty))));
        }
    }
}
