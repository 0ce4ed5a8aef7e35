//! How far a long step has come, for people who watch.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::context::Context;

/// A progress bar on standard error, when that is a terminal; it shows after a second of work and is wiped at the end.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    begun: Instant,
    shown: bool,
    wanted: bool,
}

impl Progress {
    /// Returns the bar for `total` bytes of the work that `label` names.
    #[must_use]
    pub fn bytes(context: &Context, label: &str, total: u64) -> Self {
        Self::new(context, label, total, "{prefix} [{bar:24}] {bytes} of {total_bytes}, {eta} left")
    }

    /// Returns the bar for `total` things of the work that `label` names.
    #[must_use]
    pub fn items(context: &Context, label: &str, total: u64) -> Self {
        Self::new(context, label, total, "{prefix} [{bar:24}] {pos} of {len}, {eta} left")
    }

    fn new(context: &Context, label: &str, total: u64, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden()).with_prefix(label.to_owned());
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        let wanted = context.err_is_terminal() && context.variable("TERM").is_some_and(|term| term != "dumb");
        Self { bar, begun: Instant::now(), shown: false, wanted }
    }

    /// Moves the bar to `done`.
    pub fn set(&mut self, done: u64) {
        self.bar.set_position(done);
        if self.wanted && !self.shown && self.begun.elapsed() >= PATIENCE {
            self.shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// How long people wait before they want to know.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::Progress;
    use crate::context::Context;

    #[test]
    fn nothing_is_shown_without_a_terminal() {
        let context = Context::detached(PathBuf::from("/"), Box::new(std::io::sink()), Box::new(std::io::sink()));
        let mut progress = Progress::bytes(&context, "converting", 100);
        progress.begun -= super::PATIENCE;
        progress.set(50);
        assert!(!progress.shown);
    }
}
