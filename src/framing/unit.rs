//! One unit being put together: held whole while it is small, reduced to the members that matter when it is not.

use std::fmt;

use super::json_members::Members;

/// A unit longer than this is not held: only the wanted members of its JSON are.
pub const UNIT_BYTES_MAX: usize = 1 << 20;

/// Room that is kept for the next unit.
const HELD_BYTES_KEPT: usize = 16 << 10;

/// Puts the parts of a unit together.
pub struct UnitBuffer {
    members: &'static [&'static str],
    held: Vec<u8>,
    reduced: Option<Box<Members>>,
}

impl UnitBuffer {
    /// `members`: what is kept of a unit too long to hold.
    pub fn new(members: &'static [&'static str]) -> Self {
        Self { members, held: Vec::new(), reduced: None }
    }

    /// Appends a part.
    pub fn push(&mut self, part: &[u8]) {
        if let Some(reduced) = &mut self.reduced {
            reduced.feed(part);
        } else if self.held.len().saturating_add(part.len()) <= UNIT_BYTES_MAX {
            self.held.extend_from_slice(part);
        } else {
            let mut reduced = Box::new(Members::new(self.members));
            reduced.feed(&std::mem::take(&mut self.held));
            reduced.feed(part);
            self.reduced = Some(reduced);
        }
    }

    /// Hands the unit out and begins the next. An empty one is handed out too.
    pub fn finish(&mut self, unit: &mut dyn FnMut(&[u8])) {
        if let Some(reduced) = self.reduced.take() {
            unit(&reduced.reduced());
        } else {
            unit(&self.held);
            self.held.clear();
            self.held.shrink_to(HELD_BYTES_KEPT);
        }
    }

    /// Whether nothing was pushed since the last unit.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.reduced.is_none()
    }
}

impl fmt::Debug for UnitBuffer {
    /// Sizes only: what passes is never printed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("UnitBuffer").field("held_bytes", &self.held.len()).finish_non_exhaustive()
    }
}
