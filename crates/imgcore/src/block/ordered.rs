use std::collections::HashMap;
use std::hint;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

/// Runs `work` on every item in `threads` threads, and then `sink` in the order of the items, one at a time.
///
/// Every thread has a state of its own, made by `state`: what `work` leaves there is what `sink` finds, in the same thread, so
/// that buffers are made once and nothing is handed over. Items are drawn as they are needed, also one at a time; memory does
/// not grow with their number.
///
/// # Errors
///
/// The first error in the order of the items, of `items`, `work` or `sink`; or that of `state`. What was begun by then is
/// dropped.
pub fn in_order<I, S, E>(
    items: impl Iterator<Item = Result<I, E>> + Send,
    threads: usize,
    state: impl Fn() -> Result<S, E> + Sync,
    work: impl Fn(&mut S, &I) -> Result<(), E> + Sync,
    mut sink: impl FnMut(&mut S, I) -> Result<(), E> + Send,
) -> Result<(), E>
where
    E: Send,
{
    if threads <= 1 {
        let mut state = state()?;
        for item in items {
            let item = item?;
            work(&mut state, &item)?;
            sink(&mut state, item)?;
        }
        return Ok(());
    }
    let turns = Turns::default();
    let items = Mutex::new(items.enumerate());
    let sink = Mutex::new(sink);
    let each = || {
        // However this thread ends, with a panic too, the others do not wait for it.
        let ended = Ended(&turns);
        let mut state = match state() {
            Ok(state) => state,
            Err(error) => return turns.stop(error),
        };
        while !turns.stopped.load(Ordering::Acquire) {
            let Some((index, item)) = lock(&items).next() else { return std::mem::forget(ended) };
            let done = item.and_then(|item| work(&mut state, &item).map(|()| item));
            if !turns.wait_for(u64::try_from(index).unwrap_or(u64::MAX)) {
                return;
            }
            match done.and_then(|item| lock(&sink)(&mut state, item)) {
                Ok(()) => turns.pass_on(),
                Err(error) => return turns.stop(error),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(each);
        }
        each();
    });
    turns.error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// As [`in_order`], for results that `work` returns and `sink` takes.
///
/// # Errors
///
/// As [`in_order`].
pub fn map_in_order<I, S, O, E>(
    items: &[I],
    threads: usize,
    state: impl Fn() -> Result<S, E> + Sync,
    work: impl Fn(&mut S, &I) -> Result<O, E> + Sync,
    mut sink: impl FnMut(O) -> Result<(), E> + Send,
) -> Result<(), E>
where
    I: Sync,
    E: Send,
{
    in_order(
        items.iter().map(Ok),
        threads.min(items.len()),
        || Ok((state()?, None)),
        |(state, out), item| {
            *out = Some(work(state, item)?);
            Ok(())
        },
        |(_, out), _| out.take().map_or(Ok(()), &mut sink),
    )
}

/// Whose turn it is.
struct Turns<E> {
    next: AtomicU64,
    stopped: AtomicBool,
    error: Mutex<Option<E>>,
    /// Who sleeps until the turn of an item.
    asleep: Mutex<HashMap<u64, Thread>>,
}

impl<E> Default for Turns<E> {
    fn default() -> Self {
        Self { next: AtomicU64::new(0), stopped: AtomicBool::new(false), error: Mutex::new(None), asleep: Mutex::default() }
    }
}

impl<E> Turns<E> {
    /// Waits until it is the turn of item `index`, and returns whether that came.
    fn wait_for(&self, index: u64) -> bool {
        let over = || self.stopped.load(Ordering::Acquire) || self.next.load(Ordering::Acquire) == index;
        // Whoever is next is so soon, and to be woken costs more than that.
        let soon = index.saturating_sub(self.next.load(Ordering::Acquire)) <= 1;
        for _ in 0..if soon { SPINS } else { 0 } {
            if over() {
                break;
            }
            hint::spin_loop();
        }
        if !over() {
            lock(&self.asleep).insert(index, thread::current());
            // The turn may have come before that was seen.
            while !over() {
                thread::park();
            }
            lock(&self.asleep).remove(&index);
        }
        !self.stopped.load(Ordering::Acquire)
    }

    fn pass_on(&self) {
        let next = self.next.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        if let Some(sleeper) = lock(&self.asleep).get(&next) {
            sleeper.unpark();
        }
    }

    fn stop(&self, error: E) {
        lock(&self.error).get_or_insert(error);
        self.end();
    }

    fn end(&self) {
        self.stopped.store(true, Ordering::Release);
        lock(&self.asleep).values().for_each(Thread::unpark);
    }
}

/// Ends all turns when it is dropped.
struct Ended<'a, E>(&'a Turns<E>);

impl<E> Drop for Ended<'_, E> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks before sleeping: some ten microseconds.
const SPINS: u32 = 1 << 9;

#[cfg(test)]
mod tests {
    use super::{in_order, map_in_order};

    #[test]
    fn items_are_placed_in_order_and_the_first_error_ends_everything() {
        for threads in [1, 2, 7] {
            let mut seen = Vec::new();
            let double = |state: &mut u32, item: &u32| {
                *state = item * 2;
                Ok::<_, u32>(())
            };
            in_order(
                (0..1000).map(Ok),
                threads,
                || Ok(0),
                double,
                |state, item| {
                    seen.push((item, *state));
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(seen, (0..1000).map(|item| (item, item * 2)).collect::<Vec<_>>());
            for which in 0..3 {
                let mut seen = 0;
                let fails = |of, item| if of == which && (item == 500 || item == 501) { Err(item) } else { Ok(()) };
                let items = (0..1000).map(|item| fails(0, item).map(|()| item));
                let sink = |(): &mut (), item| {
                    fails(2, item)?;
                    seen += 1;
                    Ok(())
                };
                let result = in_order(items, threads, || Ok(()), |(), item| fails(1, *item), sink);
                assert_eq!((result, seen), (Err(500), 500), "{which}");
            }
            let mut sum = 0;
            map_in_order(
                &[1, 2, 3],
                threads,
                || Ok::<_, u32>(()),
                |(), item| Ok(item * 2),
                |out: u32| {
                    sum = sum * 10 + out;
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(sum, 246);
            let state = || Err::<(), _>(7);
            assert_eq!(in_order((0..9).map(Ok), threads, state, |(), _| Ok(()), |(), _| Ok(())), Err(7));
        }
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_is_passed_on_and_nobody_waits_for_ever() {
        let work = |(): &mut (), item: &u32| if *item == 50 { panic!("of the work") } else { Ok::<_, u32>(()) };
        // Whichever thread it is: the caller's own waits for the others and panics as well.
        let work = |state: &mut (), item: &u32| {
            if std::thread::current().name().is_some() { Ok(()) } else { work(state, item) }
        };
        let _ = in_order((0..100_000).map(|item| Ok(item % 100)), 3, || Ok(()), work, |(), _| Ok(()));
    }
}
