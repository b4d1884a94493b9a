//! Stopping a load from outside.

use crate::error::{Error, Result};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Stops a load at its next await, or at once if it is waiting. Clones share the flag.
#[derive(Clone, Default)]
pub struct Abort(Rc<(Cell<bool>, RefCell<Vec<Waker>>)>);

impl Abort {
    pub fn abort(&self) {
        self.0.0.set(true);
        self.0.1.take().into_iter().for_each(Waker::wake);
    }

    /// Runs `work`, or drops it and returns [`Error::Aborted`] as soon as the flag is raised.
    pub async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if self.0.0.get() {
                return Poll::Ready(Err(Error::Aborted));
            }
            let mut wakers = self.0.1.borrow_mut();
            if !wakers.iter().any(|w| w.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            drop(wakers);
            work.as_mut().poll(context)
        })
        .await
    }
}
