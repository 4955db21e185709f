//! An account of who holds which tuple, kept from what the engine tells alone.

use std::collections::BTreeMap;

use tracer::record::holding::{Holding, HoldingChange};

/// What is held, by everything that a change says of it.
#[derive(Default)]
pub struct Books(BTreeMap<String, u32>);

impl Books {
    /// Takes a change in; an error where it takes away what was never told.
    pub fn take(&mut self, change: &HoldingChange) -> Result<(), String> {
        let name = |holding: &Holding| {
            let (netns, local) = (change.netns_cookie, change.flow.local.address);
            let (side, peer) = (change.side, change.flow.peer);
            format!("{netns} {side:?} {local} {peer} {holding:?}")
        };
        if let Some(was) = &change.was {
            let was = name(was);
            match self.0.get_mut(&was) {
                Some(1) => drop(self.0.remove(&was)),
                Some(count) => *count -= 1,
                None => return Err(format!("{was} was never told: {:#?}", self.0)),
            }
        }
        if let Some(is) = &change.is {
            *self.0.entry(name(is)).or_default() += 1;
        }
        Ok(())
    }

    /// What is held.
    pub fn held(&self) -> &BTreeMap<String, u32> {
        &self.0
    }
}
