use std::collections::HashMap;

/// A bounded map from offsets to what is stored there.
///
/// Two generations: what was not asked for since the younger one last filled up is dropped.
#[derive(Debug)]
pub(super) struct Cache<V> {
    young: HashMap<u64, V>,
    old: HashMap<u64, V>,
    capacity: usize,
}

impl<V: Clone> Cache<V> {
    /// Returns a cache that holds at most `bytes` of values of `value_len` bytes each, and at least a few of them.
    pub(super) fn new(bytes: usize, value_len: usize) -> Self {
        let capacity = bytes.checked_div(value_len.saturating_mul(2)).unwrap_or(0).clamp(2, 4096);
        Self { young: HashMap::new(), old: HashMap::new(), capacity }
    }

    pub(super) fn get(&mut self, key: u64) -> Option<V> {
        if let Some(value) = self.young.get(&key) {
            return Some(value.clone());
        }
        let value = self.old.remove(&key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    pub(super) fn insert(&mut self, key: u64, value: V) {
        if self.young.len() >= self.capacity {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: u64) {
        self.young.remove(&key);
        self.old.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::Cache;

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let mut cache = Cache::new(80, 10);
        for key in 0..100 {
            cache.insert(key, key);
            assert_eq!(cache.get(0), Some(0));
        }
        assert_eq!(cache.get(50), None);
        assert!(cache.young.len() + cache.old.len() <= 8);
        cache.remove(0);
        assert_eq!(cache.get(0), None);
    }
}
