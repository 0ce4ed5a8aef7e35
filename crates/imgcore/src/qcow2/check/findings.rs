//! What a check finds: numbers, and some of it as text.

/// What is wrong with an image.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    pub(super) corruptions: u64,
    pub(super) leaks: u64,
    pub(super) errors: u64,
    /// Corruptions that are flags.
    pub(super) flag_faults: u64,
    lines: Lines,
    /// What is said last: flags that contradict refcounts.
    flags: Lines,
}

/// Lines of text, of which the first are kept.
#[derive(Clone, Debug, Default)]
struct Lines {
    kept: Vec<String>,
    dropped: u64,
}

impl Lines {
    fn push(&mut self, line: impl FnOnce() -> String, times: u64) {
        if self.kept.len() < MOST_LINES {
            self.kept.push(line());
            self.dropped = self.dropped.saturating_add(times.saturating_sub(1));
        } else {
            self.dropped = self.dropped.saturating_add(times);
        }
    }
}

impl Findings {
    pub(super) fn corruption(&mut self, line: impl FnOnce() -> String) {
        self.corruptions_of_a_kind(1, line);
    }

    /// Adds `times` corruptions of which one line speaks.
    pub(super) fn corruptions_of_a_kind(&mut self, times: u64, line: impl FnOnce() -> String) {
        self.corruptions = self.corruptions.saturating_add(times);
        self.lines.push(line, times);
    }

    /// Adds a flag that contradicts a refcount.
    pub(super) fn flag(&mut self, times: u64, line: impl FnOnce() -> String) {
        self.corruptions = self.corruptions.saturating_add(times);
        self.flag_faults = self.flag_faults.saturating_add(times);
        self.flags.push(line, times);
    }

    pub(super) fn leak(&mut self, line: impl FnOnce() -> String) {
        self.leaks = self.leaks.saturating_add(1);
        self.lines.push(line, 1);
    }

    /// Adds leaks that no line speaks of.
    pub(super) fn further_leaks(&mut self, count: u64) {
        self.leaks = self.leaks.saturating_add(count);
        self.lines.dropped = self.lines.dropped.saturating_add(count);
    }

    /// Adds clusters, from `first` on, whose refcount cannot be read.
    pub(super) fn unreadable(&mut self, first: u64, count: u64) {
        self.errors = self.errors.saturating_add(count);
        for cluster in first..first.saturating_add(count.min(SAMPLE)) {
            self.lines.push(|| format!("Can't get refcount for cluster {cluster}: its refcount block has no valid place"), 1);
        }
        self.lines.dropped = self.lines.dropped.saturating_add(count.saturating_sub(SAMPLE));
    }

    /// Returns whether lines are still kept.
    pub(super) fn keeps_lines(&self) -> bool {
        self.lines.kept.len() < MOST_LINES
    }

    /// Returns the lines, and how many more there would be.
    pub(super) fn into_lines(self) -> (Vec<String>, u64) {
        let mut kept = self.lines.kept;
        kept.extend(self.flags.kept);
        (kept, self.lines.dropped.saturating_add(self.flags.dropped))
    }
}

/// Lines of each kind that are kept.
const MOST_LINES: usize = 2000;
/// Lines about a run of clusters of which nothing can be said.
const SAMPLE: u64 = 100;
