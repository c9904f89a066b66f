//! Workers without threads, for fuzzers and tests: each is a coroutine of the thread that made it, and goes on when that thread
//! says so. Where a worker would sleep it gives the word back. So nothing depends on time or on the host's scheduler, and a round
//! costs less than a thread would.
//!
//! A worker's code is the same as ever: [`crate::Worker`] and [`crate::EventLoop`] know of this, nobody else does. What a worker
//! waits for in another way than by its event loop must not depend on the script, which would wait for ever.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use crate::worker::STACK;

/// Most rounds that a worker has before [`Script::settle`] leaves it: a guest that changes its rings all the time is never done.
const ROUNDS: usize = 32;
/// Most rounds until a worker that was told to stop has stopped.
const ROUNDS_TO_STOP: usize = 1000;
/// Stacks that are kept for later workers.
const KEPT_STACKS: usize = 8;

/// Why a worker gives the word back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It would go on at once.
    More,
    /// It would sleep.
    Idle,
}

/// What a worker hears when it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// Look whether something happened.
    Look,
    /// As long as you wanted to sleep at most is over.
    TimePasses,
}

type Place = Rc<Cell<*const Yielder<Word, Rest>>>;

struct Entry {
    id: u64,
    coroutine: Coroutine<Word, Rest, ()>,
    /// Where it gives the word back.
    place: Place,
}

#[derive(Default)]
struct Bench {
    entries: Vec<Entry>,
    stacks: Vec<DefaultStack>,
    next_id: u64,
}

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    /// Of the worker that has the word; null while none has.
    static INSIDE: Cell<*const Yielder<Word, Rest>> = const { Cell::new(std::ptr::null()) };
    static BENCH: RefCell<Bench> = RefCell::default();
}

/// True while workers of this thread are coroutines.
pub(crate) fn is_on() -> bool {
    ON.get()
}

/// True in such a worker.
pub(crate) fn is_inside() -> bool {
    !INSIDE.get().is_null()
}

/// Gives the word back; returns when the worker has it again.
pub(crate) fn rest(why: Rest) -> Word {
    let place = INSIDE.get();
    // SAFETY: a place is set by the coroutine that has the word, whose yielder lives until it returns.
    unsafe { (*place).suspend(why) }
}

/// A worker that is a coroutine.
pub(crate) struct Scripted<T> {
    id: u64,
    result: Arc<Mutex<Option<T>>>,
}

pub(crate) fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + 'static) -> Scripted<T> {
    let result = Arc::new(Mutex::new(None));
    let (place, filled) = (Place::new(Cell::new(std::ptr::null())), result.clone());
    let own = place.clone();
    let id = BENCH.with_borrow_mut(|bench| {
        let stack = bench
            .stacks
            .pop()
            .unwrap_or_else(|| DefaultStack::new(STACK).expect("the host gives a stack"));
        let coroutine = Coroutine::with_stack(stack, move |yielder, _| {
            own.set(yielder);
            INSIDE.set(yielder);
            let given = work();
            *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(given);
        });
        bench.next_id += 1;
        let id = bench.next_id;
        bench.entries.push(Entry { id, coroutine, place });
        id
    });
    Scripted { id, result }
}

impl<T> Scripted<T> {
    /// Lets it go on until it is over.
    pub fn finish(self) -> T {
        for _ in 0..ROUNDS_TO_STOP {
            if let Some(given) = self.result.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return given;
            }
            go_on(self.id, Word::Look);
        }
        panic!("a worker did not stop within {ROUNDS_TO_STOP} rounds");
    }
}

/// Lets the worker `id` have the word once. True if there is more that it would do.
fn go_on(id: u64, word: Word) -> bool {
    let taken = BENCH.with_borrow_mut(|bench| {
        let at = bench.entries.iter().position(|entry| entry.id == id)?;
        Some((at, bench.entries.remove(at)))
    });
    let Some((at, mut entry)) = taken else {
        return false;
    };
    let outside = INSIDE.replace(entry.place.get());
    let result = entry.coroutine.resume(word);
    INSIDE.set(outside);
    BENCH.with_borrow_mut(|bench| match result {
        CoroutineResult::Yield(why) => {
            bench.entries.insert(at.min(bench.entries.len()), entry);
            why == Rest::More
        }
        CoroutineResult::Return(()) => {
            if bench.stacks.len() < KEPT_STACKS {
                bench.stacks.push(entry.coroutine.into_stack());
            }
            false
        }
    })
}

/// The word over the workers of this thread.
pub struct Script(PhantomData<*const ()>);

impl Script {
    /// Lets all workers go on until each would sleep, or has had many rounds.
    pub fn settle(&self) {
        self.tell(Word::Look);
        for _ in 0..ROUNDS {
            if !self.tell(Word::Look) {
                return;
            }
        }
    }

    /// As long as each worker wants to sleep at most is over.
    pub fn let_time_pass(&self) {
        self.tell(Word::TimePasses);
        self.settle();
    }

    /// True if a worker has more to do.
    fn tell(&self, word: Word) -> bool {
        let ids: Vec<u64> = BENCH.with_borrow(|bench| bench.entries.iter().map(|entry| entry.id).collect());
        let mut more = false;
        for id in ids {
            more |= go_on(id, word);
        }
        more
    }
}

/// Runs `script`; workers that this thread starts meanwhile are coroutines. Those that were not stopped are gone afterwards.
pub fn run<R>(script: impl FnOnce(&Script) -> R) -> R {
    /// Ends it however the script ends.
    struct Over;
    impl Drop for Over {
        fn drop(&mut self) {
            ON.set(false);
            let left = BENCH.with_borrow_mut(|bench| std::mem::take(&mut bench.entries));
            drop(left);
        }
    }
    assert!(!ON.replace(true), "a script runs no other one");
    let _over = Over;
    script(&Script(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EventLoop, Worker, clear, new_event};
    use std::time::Duration;

    /// Counts how often its event, or its time, came.
    fn counter(event: Arc<vmm_sys_util::eventfd::EventFd>, timeout: Option<Duration>) -> Worker<(u32, u32)> {
        Worker::spawn("counter".into(), move |stop| {
            let mut events = EventLoop::new().unwrap();
            events.add(&*stop, 0).unwrap();
            events.add(&*event, 1).unwrap();
            let (mut rung, mut late, mut tokens) = (0, 0, Vec::new());
            loop {
                events.wait(timeout, &mut tokens).unwrap();
                match tokens[..] {
                    [1] => {
                        clear(&event);
                        rung += 1;
                    }
                    [] => late += 1,
                    _ => return (rung, late),
                }
            }
        })
        .unwrap()
    }

    #[test]
    fn a_worker_goes_on_when_it_is_told_and_not_before() {
        run(|script| {
            let event = Arc::new(new_event().unwrap());
            let worker = counter(event.clone(), Some(Duration::from_secs(3600)));
            event.write(1).unwrap();
            event.write(1).unwrap();
            script.settle();
            script.settle();
            event.write(1).unwrap();
            script.settle();
            script.let_time_pass();
            assert_eq!(worker.stop(), Some((2, 1)));
        });
    }

    #[test]
    fn a_worker_that_is_always_busy_is_left_and_can_be_stopped() {
        run(|script| {
            let event = Arc::new(new_event().unwrap());
            let worker = counter(event, Some(Duration::ZERO));
            script.settle();
            let (rung, late) = worker.stop().unwrap();
            assert_eq!(rung, 0);
            assert!((1..100).contains(&late), "{late}");
        });
    }

    #[test]
    fn workers_that_are_left_are_gone_and_threads_are_threads_again() {
        let event = Arc::new(new_event().unwrap());
        run(|script| {
            let _left = counter(event.clone(), None);
            script.settle();
            assert_eq!(Arc::strong_count(&event), 2);
        });
        assert_eq!(Arc::strong_count(&event), 1);
        let worker = counter(event, None);
        assert!(worker.stop().is_some());
    }
}
