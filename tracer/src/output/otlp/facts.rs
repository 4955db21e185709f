//! What is known, fact by fact. What is not known is left out.

use super::logs::{Attribute, Value};
use crate::filter::until_nul;

/// What is known so far.
#[derive(Default)]
pub struct Facts(Vec<Attribute>);

impl Facts {
    /// Nothing yet; there is room for as many.
    pub fn with_capacity(facts: usize) -> Self {
        Self(Vec::with_capacity(facts))
    }

    /// Adds a fact, if it is known.
    pub fn add(&mut self, name: &'static str, value: Option<impl Into<Value>>) {
        self.0.extend(value.map(|value| (name, value.into())));
    }
}

impl From<Facts> for Vec<Attribute> {
    fn from(facts: Facts) -> Self {
        facts.0
    }
}

/// A name that a user has chosen. What is not UTF-8 in it is replaced, as in NDJSON.
pub fn readable(name: [u8; 16]) -> String {
    String::from_utf8_lossy(until_nul(&name)).into_owned()
}
