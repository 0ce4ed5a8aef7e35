use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Runs `work` on every item in `threads` threads, and then `sink` in the order of the items, one at a time.
///
/// What `work` leaves in the state that it is given is what `sink` finds there. There are a few more states than threads, each
/// made by `state` once, so that buffers are made once as well. A thread whose item is not the next leaves it to whoever comes
/// there, and goes on; nobody waits to be woken while there is work. Items are drawn as they are needed, one at a time; memory
/// does not grow with their number.
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
    I: Send,
    S: Send,
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
    let line = Line::new(threads.saturating_add(SPARE));
    let items = Mutex::new(items.enumerate());
    let sink = Mutex::new(sink);
    let each = || {
        // However this thread ends, with a panic too, the others do not wait for it.
        let ended = Ended(&line);
        while let Some(kept) = line.take_state() {
            let mut kept = match kept.map_or_else(&state, Ok) {
                Ok(kept) => kept,
                Err(error) => return line.stop(error),
            };
            let Some((index, item)) = lock(&items).next() else {
                line.give_back(kept);
                return std::mem::forget(ended);
            };
            let done = item.and_then(|item| work(&mut kept, &item).map(|()| item));
            line.put(index, kept, done, |state, item| lock(&sink)(state, item));
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(each);
        }
        each();
    });
    let error = line.inside.into_inner().unwrap_or_else(PoisonError::into_inner).error;
    error.map_or(Ok(()), Err)
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
    S: Send,
    O: Send,
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

/// Items that wait until it is their turn.
struct Line<I, S, E> {
    inside: Mutex<Inside<I, S, E>>,
    /// Told when there is a state more, or when all has ended.
    changed: Condvar,
}

struct Inside<I, S, E> {
    next: usize,
    ready: BTreeMap<usize, (S, Result<I, E>)>,
    /// Whether a thread is about to give items to the sink.
    busy: bool,
    free: Vec<S>,
    /// How many more states may be made.
    unmade: usize,
    stopped: bool,
    error: Option<E>,
}

impl<I, S, E> Line<I, S, E> {
    fn new(states: usize) -> Self {
        let (ready, free) = (BTreeMap::new(), Vec::new());
        let inside = Inside { next: 0, ready, busy: false, free, unmade: states, stopped: false, error: None };
        Self { inside: Mutex::new(inside), changed: Condvar::new() }
    }

    /// Returns a state, or `Some(None)` when one is to be made, or `None` when all has ended.
    fn take_state(&self) -> Option<Option<S>> {
        let mut inside = lock(&self.inside);
        loop {
            if inside.stopped {
                return None;
            }
            if let Some(state) = inside.free.pop() {
                return Some(Some(state));
            }
            if let Some(unmade) = inside.unmade.checked_sub(1) {
                inside.unmade = unmade;
                return Some(None);
            }
            inside = self.changed.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give_back(&self, state: S) {
        lock(&self.inside).free.push(state);
        self.changed.notify_one();
    }

    /// Takes item `index`, and gives those whose turn it is to `sink`, unless another thread does that already.
    fn put(&self, index: usize, state: S, item: Result<I, E>, mut sink: impl FnMut(&mut S, I) -> Result<(), E>) {
        let mut inside = lock(&self.inside);
        inside.ready.insert(index, (state, item));
        if inside.busy {
            return;
        }
        inside.busy = true;
        while let (false, next) = (inside.stopped, inside.next)
            && let Some((mut state, item)) = inside.ready.remove(&next)
        {
            drop(inside);
            let done = item.and_then(|item| sink(&mut state, item));
            inside = lock(&self.inside);
            inside.next = next.saturating_add(1);
            inside.free.push(state);
            self.changed.notify_one();
            if let Err(error) = done {
                drop(inside);
                return self.stop(error);
            }
        }
        inside.busy = false;
    }

    fn stop(&self, error: E) {
        lock(&self.inside).error.get_or_insert(error);
        self.end();
    }

    fn end(&self) {
        lock(&self.inside).stopped = true;
        self.changed.notify_all();
    }
}

/// Ends everything when it is dropped.
struct Ended<'a, I, S, E>(&'a Line<I, S, E>);

impl<I, S, E> Drop for Ended<'_, I, S, E> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// States beyond one for each thread: items that are done and wait for one before them.
const SPARE: usize = 4;

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
