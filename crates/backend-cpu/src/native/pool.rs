//! Threads that wait for work close by.
//!
//! A chunk of actions is some thousand short parallel loops, so handing one out must cost well under a microsecond:
//! idle threads look for work for a short while (`SPIN`) before they sleep. Tasks are taken one by one, so a
//! thread that the operating system interrupts does not hold up the others; which thread runs a task never changes its
//! result.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::isa::Isa;
use super::kernels::Tiles;

/// How often an idle thread looks for work before it sleeps: some 50 µs.
const SPIN: u32 = 2_000;

/// A fixed number of threads, the calling one among them.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One loop at a time.
    caller: Mutex<()>,
    isa: Isa,
}

#[derive(Debug)]
struct Shared {
    /// Tasks of the current loop that nobody has taken yet.
    remaining: AtomicUsize,
    /// The current loop; valid while tasks of it remain or run.
    current: AtomicPtr<Loop<'static>>,
    sleepers: AtomicUsize,
    stop: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

/// A parallel loop, on the stack of the thread that runs it.
struct Loop<'a> {
    tasks: usize,
    body: &'a (dyn Fn(usize, usize) + Sync),
    done: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Pool {
    /// Starts `threads - 1` threads. `pin`: each on a processor of its own, where the system allows it.
    pub(crate) fn new(threads: usize, pin: bool, isa: Isa) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            remaining: AtomicUsize::new(0),
            current: AtomicPtr::new(std::ptr::null_mut()),
            sleepers: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut pool = Self { shared, workers: Vec::new(), caller: Mutex::new(()), isa };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new().name(format!("smolvla-cpu-{index}")).spawn(move || {
                if pin {
                    super::affinity::pin(index);
                }
                work(&shared, index, isa);
            })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads that work on a loop.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body(task, thread)` for every task of `0..tasks`, on all threads, and waits for all of them. Tasks
    /// are started in order. A panic in one is raised here after all have ended.
    pub(crate) fn run(&self, tasks: usize, body: &(dyn Fn(usize, usize) + Sync)) {
        if self.workers.is_empty() || tasks <= 1 {
            let _tiles = Tiles::enter(self.isa);
            (0..tasks).for_each(|task| body(task, 0));
            return;
        }
        let _turn = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        let work = Loop { tasks, body, done: AtomicUsize::new(0), panic: Mutex::new(None) };
        let address = (&raw const work).cast_mut().cast::<Loop<'static>>();
        self.shared.current.store(address, Ordering::Release);
        self.shared.remaining.store(tasks, Ordering::SeqCst);
        if self.shared.sleepers.load(Ordering::SeqCst) > 0 {
            // Under the lock, so that a thread about to sleep has either seen the tasks or hears this.
            let _guard = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.wake.notify_all();
        }
        take_tasks(&self.shared, 0, self.isa);
        let mut looks = 0u32;
        while work.done.load(Ordering::Acquire) < tasks {
            std::hint::spin_loop();
            looks += 1;
            // Another thread was interrupted in the middle of a task: it may need this processor.
            if looks > SPIN {
                thread::yield_now();
            }
        }
        let panic = work.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _guard = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics; it has none of its own to report.
            let _ = worker.join();
        }
    }
}

/// Takes tasks of the current loop until none remain.
fn take_tasks(shared: &Shared, thread: usize, isa: Isa) {
    let mut tiles = None;
    loop {
        let remaining = shared.remaining.load(Ordering::SeqCst);
        if remaining == 0 {
            return;
        }
        let taken = shared.remaining.compare_exchange_weak(
            remaining,
            remaining - 1,
            Ordering::SeqCst,
            Ordering::Relaxed,
        );
        if taken.is_err() {
            continue;
        }
        // SAFETY: a task of the current loop was just taken, so its caller waits until it is done: the pointer is
        // that loop's, stored before its tasks were offered, and stays valid until `done` counts this task.
        let work = unsafe { &*shared.current.load(Ordering::Acquire) };
        tiles.get_or_insert_with(|| Tiles::enter(isa));
        let result = catch_unwind(AssertUnwindSafe(|| (work.body)(work.tasks - remaining, thread)));
        if let Err(panic) = result {
            *work.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        // The last use of `work`: its caller may go on from here.
        work.done.fetch_add(1, Ordering::Release);
    }
}

/// What a worker does until the pool is dropped.
fn work(shared: &Shared, thread: usize, isa: Isa) {
    let mut looks = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        if shared.remaining.load(Ordering::SeqCst) > 0 {
            take_tasks(shared, thread, isa);
            looks = 0;
        } else if looks < SPIN {
            looks += 1;
            std::hint::spin_loop();
        } else {
            let mut guard = shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            shared.sleepers.fetch_add(1, Ordering::SeqCst);
            while shared.remaining.load(Ordering::SeqCst) == 0 && !shared.stop.load(Ordering::SeqCst) {
                guard = shared.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            shared.sleepers.fetch_sub(1, Ordering::SeqCst);
            looks = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn count(calls: &AtomicUsize) {
        calls.fetch_add(1, Ordering::Relaxed);
    }

    fn pool(threads: usize) -> Pool {
        Pool::new(threads, false, Isa::Portable).unwrap()
    }

    #[test]
    fn run_calls_every_task_once() {
        for threads in [1, 2, 3, 5] {
            let pool = pool(threads);
            for tasks in [0, 1, 2, 3, 17, 1000] {
                let calls: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|task, thread| {
                    assert!(thread < threads);
                    calls[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(calls.iter().all(|calls| calls.load(Ordering::Relaxed) == 1), "{threads} {tasks}");
            }
        }
    }

    #[test]
    fn run_wakes_threads_that_sleep() {
        let pool = pool(3);
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(3));
            let calls = AtomicUsize::new(0);
            pool.run(100, &|_, _| count(&calls));
            assert_eq!(calls.into_inner(), 100);
        }
    }

    #[test]
    fn run_takes_many_short_loops_from_several_callers() {
        let pool = pool(2);
        let calls = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        pool.run(3, &|_, _| count(&calls));
                    }
                });
            }
        });
        assert_eq!(calls.into_inner(), 12_000);
    }

    #[test]
    fn run_raises_a_tasks_panic_and_goes_on_working() {
        let pool = pool(2);
        let panic = catch_unwind(AssertUnwindSafe(|| pool.run(10, &|task, _| assert_ne!(task, 7, "task 7"))));
        assert!(panic.is_err());
        let calls = AtomicUsize::new(0);
        pool.run(10, &|_, _| count(&calls));
        assert_eq!(calls.into_inner(), 10);
    }
}
