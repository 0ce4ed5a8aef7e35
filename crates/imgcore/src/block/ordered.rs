use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// Runs `work` on every item in `threads` threads and gives the results to `sink` in the order of the items.
///
/// Every thread has a state of its own, made by `state`. At most two results per thread wait for the sink, so that memory does
/// not grow with the number of items.
///
/// # Errors
///
/// The first error in the order of the items, of `state`, `work` or `sink`; what was begun by then is dropped.
pub fn map_in_order<I, S, O, E>(
    items: &[I],
    threads: usize,
    state: impl Fn() -> Result<S, E> + Sync,
    work: impl Fn(&mut S, &I) -> Result<O, E> + Sync,
    mut sink: impl FnMut(O) -> Result<(), E>,
) -> Result<(), E>
where
    I: Sync,
    O: Send,
    E: Send,
{
    let threads = threads.clamp(1, items.len().max(1));
    if threads == 1 {
        let mut state = state()?;
        return items.iter().try_for_each(|item| sink(work(&mut state, item)?));
    }
    thread::scope(|scope| {
        let (state, work) = (&state, &work);
        let results: Vec<Receiver<Result<O, E>>> = (0..threads)
            .map(|first| {
                let (send, receive) = sync_channel(2);
                scope.spawn(move || {
                    let mut state = match state() {
                        Ok(state) => state,
                        // A closed channel means that the sink has failed: nobody wants the rest.
                        Err(error) => return drop(send.send(Err(error))),
                    };
                    for item in items.iter().skip(first).step_by(threads) {
                        if send.send(work(&mut state, item)).is_err() {
                            return;
                        }
                    }
                });
                receive
            })
            .collect();
        for receive in results.iter().cycle().take(items.len()) {
            // A thread that ends early has panicked, and the scope passes that on.
            let Ok(result) = receive.recv() else { return Ok(()) };
            sink(result?)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::map_in_order;

    #[test]
    fn results_arrive_in_order_and_the_first_error_ends_everything() {
        let items: Vec<u32> = (0..1000).collect();
        for threads in [1, 2, 7] {
            let mut seen = Vec::new();
            map_in_order(
                &items,
                threads,
                || Ok::<_, u32>(()),
                |(), item| Ok(item * 2),
                |out| {
                    seen.push(out);
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(seen, items.iter().map(|item| item * 2).collect::<Vec<_>>());
            let mut seen = 0;
            let fails = |(): &mut (), item: &u32| if *item == 500 || *item == 501 { Err(*item) } else { Ok(()) };
            let result = map_in_order(
                &items,
                threads,
                || Ok(()),
                fails,
                |()| {
                    seen += 1;
                    Ok(())
                },
            );
            assert_eq!((result, seen), (Err(500), 500));
        }
    }
}
