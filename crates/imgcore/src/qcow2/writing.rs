use std::sync::Arc;

/// What writing has changed and not stored yet.
#[derive(Debug)]
pub(super) struct Writing {}

impl Writing {
    pub(super) fn table(&self, _index: u64) -> Option<Arc<Vec<u64>>> {
        None
    }
}
