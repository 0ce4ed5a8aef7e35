use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use seed::guest::VolumeId;
use seed::plan::Note;

use super::base::Opened;
use super::target::refuse_shared;
use super::{Plan, Request, Settings, execute};
use crate::attached::Via;
use crate::context::Context;
use crate::domain::DiskFormat;
use crate::error::CommandError;
use crate::machine::{Machine, Root, remove_leftovers};

/// Machines that are prepared in one run: a base image that many of them share is opened and inspected once.
#[derive(Debug)]
pub struct Fleet<'a> {
    context: &'a Context,
    root: &'a Root,
    seed_value: Option<&'a str>,
    bases: Mutex<Vec<(BaseKey, Arc<Opened>)>>,
    /// Held by the machine that is made by way of the kernel.
    attached: Mutex<()>,
}

/// What was made of a request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The machine.
    pub machine: Machine,
    /// What the reader should know.
    pub notes: Vec<Note>,
}

/// What must be equal for two machines to share an opened base.
type BaseKey = (Option<String>, Option<DiskFormat>, Option<String>, Option<VolumeId>, Via);

impl<'a> Fleet<'a> {
    /// Returns the fleet whose machines are made in `root`; with a seed value everything random follows from it and the names.
    #[must_use]
    pub fn new(context: &'a Context, root: &'a Root, seed_value: Option<&'a str>) -> Self {
        Self { context, root, seed_value, bases: Mutex::new(Vec::new()), attached: Mutex::new(()) }
    }

    /// Plans one machine. Nothing is written but `builtin:demo`, which the store unpacks on its first use.
    ///
    /// # Errors
    ///
    /// When the base cannot be used, or the request does not fit it.
    pub fn plan(&self, request: &Request) -> Result<Plan, CommandError> {
        request.settings.check()?;
        let opened = self.base(&request.settings)?;
        Plan::make(request, &opened, self.root, self.seed_value, self.context)
    }

    /// Makes the machines, several at the same time, and returns what came of each in the order of the requests.
    ///
    /// What killed runs have left is removed first. A failure of one machine does not keep the others from being made; a
    /// signal does. `done` is told how many have ended.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) when two machines have one target, and the failure to clean up; those of
    /// machines are in the list.
    pub fn prepare(
        &self,
        requests: &[Request],
        done: &mut dyn FnMut(u64),
    ) -> Result<Vec<Result<Outcome, CommandError>>, CommandError> {
        refuse_shared(requests, self.context)?;
        remove_leftovers(self.root)?;
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        // Durable work waits for the storage most of the time: more threads than cores keep both busy.
        let workers = cores.saturating_mul(THREADS_PER_CORE).min(requests.len()).max(1);
        if workers == 1 {
            return Ok(requests.iter().map(|request| self.one(request)).collect());
        }
        let next = AtomicUsize::new(0);
        let (sender, receiver) = mpsc::channel();
        let mut outcomes: Vec<Option<Result<Outcome, CommandError>>> = requests.iter().map(|_| None).collect();
        thread::scope(|scope| {
            for _ in 0..workers {
                let (sender, next) = (sender.clone(), &next);
                scope.spawn(move || {
                    while let Some((index, request)) = take(requests, next) {
                        if sender.send((index, self.one(request))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            for (count, (index, outcome)) in (1_u64..).zip(receiver) {
                if let Some(place) = outcomes.get_mut(index) {
                    *place = Some(outcome);
                }
                done(count);
            }
        });
        Ok(outcomes.into_iter().flatten().collect())
    }

    fn one(&self, request: &Request) -> Result<Outcome, CommandError> {
        self.context.interrupt().check()?;
        request.settings.check()?;
        if request.settings.via == Via::Nbd {
            return self.one_attached(request);
        }
        let opened = self.base(&request.settings)?;
        let plan = Plan::make(request, &opened, self.root, self.seed_value, self.context)?;
        let machine = execute(&plan, &opened.base, self.root, self.context)?;
        Ok(Outcome { machine, notes: plan.planned.notes })
    }

    /// Makes a machine by way of the kernel, which may have one file system of a UUID at a time: one machine after the other, and
    /// its base out of reach when its own disk is there.
    fn one_attached(&self, request: &Request) -> Result<Outcome, CommandError> {
        let _alone = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = Opened::open(&request.settings, self.root, self.context)?;
        let plan = Plan::make(request, &opened, self.root, self.seed_value, self.context)?;
        let base = opened.close()?;
        let machine = execute(&plan, &base, self.root, self.context)?;
        Ok(Outcome { machine, notes: plan.planned.notes })
    }

    fn base(&self, settings: &Settings) -> Result<Arc<Opened>, CommandError> {
        let key = (settings.image.clone(), settings.format, settings.sha256.clone(), settings.partition.clone(), settings.via);
        // Held while a base is opened: the others of the fleet wait for it rather than open it as well.
        let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, base)) = bases.iter().find(|(known, _)| *known == key) {
            return Ok(Arc::clone(base));
        }
        let base = Arc::new(Opened::open(settings, self.root, self.context)?);
        bases.push((key, Arc::clone(&base)));
        Ok(base)
    }
}

fn take<'r>(requests: &'r [Request], next: &AtomicUsize) -> Option<(usize, &'r Request)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    requests.get(index).map(|request| (index, request))
}

/// Machines that are at work for each core.
const THREADS_PER_CORE: usize = 4;
