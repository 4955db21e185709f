//! A map that forgets what was told longest ago.

use std::hash::Hash;
use std::mem;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// How many entries of each of two ages are kept.
const AGE: usize = 16_384;

/// A map of bounded size: when its young half is full, the old half is forgotten and the young one
/// is old. Two of them that take in the same keys in the same order forget the same.
#[derive(Clone, Debug)]
pub(super) struct Recent<K, V> {
    young: HashMap<K, V, RandomState>,
    old: HashMap<K, V, RandomState>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self {
            young: HashMap::default(),
            old: HashMap::default(),
        }
    }
}

impl<K: Eq + Hash, V> Recent<K, V> {
    /// Keeps `value`, in place of what was kept for `key` before.
    pub fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= AGE && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// What is kept for `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// The same, to be changed in place.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self.young.get_mut(key) {
            Some(value) => Some(value),
            None => self.old.get_mut(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_and_the_number_is_bounded() {
        let mut recent = Recent::default();
        for key in 0..100_000_usize {
            recent.insert(key, key);
            assert!(recent.young.len() + recent.old.len() <= 2 * AGE);
            assert_eq!(recent.get(&key), Some(&key));
            let earlier = key.saturating_sub(AGE - 1);
            assert_eq!(recent.get(&earlier), Some(&earlier));
        }
        assert_eq!(recent.get(&0), None);
    }

    #[test]
    fn what_is_told_again_is_young_again() {
        let mut recent = Recent::default();
        for key in 0..100_000_usize {
            if recent.get(&usize::MAX).is_none() || key % AGE == 0 {
                recent.insert(usize::MAX, 0);
            }
            recent.insert(key, 0);
            assert!(recent.get(&usize::MAX).is_some());
        }
    }
}
