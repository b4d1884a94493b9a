//! Several threads computing one model: each holds some rows of every matrix, and they hand each other activations.
//!
//! ```text
//! leader: Backend verbs -> Command --send--> every follower       all: run it, meeting in all_gather
//! ```
//! Every rank runs the same commands in the same order, so the n-th `all_gather` of one is the n-th of all. Only outputs
//! are split, never a sum, so results do not depend on the number of ranks.
//!
//! Where that does not pay ([`super::balance`]) the leader computes alone for a while: it fetches the others' rows once
//! (`Collect`), and keys and values that one side has not seen are handed over whenever they part or meet (`Sync`). The others sleep.

use crate::error::{Error, Result};
use std::time::Duration;

/// Which of how many equal threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    pub rank: usize,
    pub count: usize,
}

impl Shard {
    pub const ALL: Shard = Shard { rank: 0, count: 1 };

    /// This rank's share of `units`.
    pub fn of(self, units: usize) -> std::ops::Range<usize> {
        self.rank * units / self.count..(self.rank + 1) * units / self.count
    }
}

/// How ranks meet. Words carry f32 bits or command words.
pub trait Exchange {
    /// Puts this rank's words at `offset` of the common ones and waits until all ranks did; `all` is then complete.
    ///
    /// # Errors
    /// Another rank failed.
    fn all_gather(&mut self, own: &[u32], offset: usize, all: &mut [u32]) -> Result<()>;

    /// Leader: hands a message to every follower.
    fn send(&mut self, message: &[u32]) -> Result<()>;

    /// Leader: the same without waiting; the next meeting begins only when every follower has it.
    fn post(&mut self, message: &[u32]) -> Result<()>;

    /// Leader: whether every follower has what was posted.
    fn met(&self) -> bool;

    /// Followers: waits for the next message.
    fn receive(&mut self, message: &mut Vec<u32>) -> Result<()>;

    /// Tells every rank, waiting or not, that this one cannot go on.
    fn fail(&mut self, error: &Error);

    /// What this rank has waited for others since this was last asked.
    fn take_waited(&mut self) -> Duration;
}

/// One rank alone.
pub struct Solo;

impl Exchange for Solo {
    fn all_gather(&mut self, own: &[u32], offset: usize, all: &mut [u32]) -> Result<()> {
        all[offset..offset + own.len()].copy_from_slice(own);
        Ok(())
    }

    fn send(&mut self, _: &[u32]) -> Result<()> {
        Ok(())
    }

    fn post(&mut self, _: &[u32]) -> Result<()> {
        Ok(())
    }

    fn met(&self) -> bool {
        true
    }

    fn receive(&mut self, _: &mut Vec<u32>) -> Result<()> {
        Err(Error::internal("a rank alone has no leader"))
    }

    fn fail(&mut self, _: &Error) {}

    fn take_waited(&mut self) -> Duration {
        Duration::ZERO
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub use threads::Threads;

#[cfg(not(target_arch = "wasm32"))]
mod threads {
    use super::*;
    use std::sync::{Arc, Condvar, Mutex};
    use std::time::Instant;

    /// Ranks on the threads of one process.
    pub struct Threads {
        rank: usize,
        count: usize,
        meeting: Arc<(Mutex<Meeting>, Condvar)>,
        /// Meetings of this rank so far.
        round: usize,
        waited: Duration,
    }

    #[derive(Default)]
    struct Meeting {
        /// Of even and odd rounds, so that one may be read while the next is filled.
        words: [Vec<u32>; 2],
        /// Meetings of each rank so far.
        arrived: Vec<usize>,
        failed: Option<Error>,
    }

    impl Threads {
        /// One for each of `count` ranks.
        pub fn team(count: usize) -> Vec<Threads> {
            let meeting =
                Arc::new((Mutex::new(Meeting { arrived: vec![0; count], ..Meeting::default() }), Condvar::new()));
            (0..count)
                .map(|rank| Threads { rank, count, meeting: meeting.clone(), round: 0, waited: Duration::ZERO })
                .collect()
        }

        /// `put` fills the round's words; once every rank arrived, `take` reads them.
        fn meet(&mut self, put: impl FnOnce(&mut Vec<u32>), take: impl FnOnce(&[u32])) -> Result<()> {
            let (mutex, condition) = &*self.meeting;
            let lost = |_| Error::internal("a CPU thread panicked");
            let mut meeting = mutex.lock().map_err(lost)?;
            // The slot that is filled next may still be read from the meeting before the one that was only posted.
            while meeting.failed.is_none() && meeting.arrived.iter().any(|a| *a < self.round) {
                meeting = condition.wait(meeting).map_err(|_| Error::internal("a CPU thread panicked"))?;
            }
            put(&mut meeting.words[self.round % 2]);
            self.round += 1;
            meeting.arrived[self.rank] = self.round;
            condition.notify_all();
            let start = Instant::now();
            while meeting.failed.is_none() && meeting.arrived.iter().any(|a| *a < self.round) {
                meeting = condition.wait(meeting).map_err(|_| Error::internal("a CPU thread panicked"))?;
            }
            self.waited += start.elapsed();
            if let Some(error) = &meeting.failed {
                return Err(error.clone());
            }
            take(&meeting.words[(self.round - 1) % 2]);
            Ok(())
        }
    }

    impl Exchange for Threads {
        fn all_gather(&mut self, own: &[u32], offset: usize, all: &mut [u32]) -> Result<()> {
            let put = |words: &mut Vec<u32>| {
                words.resize(words.len().max(offset + own.len()), 0);
                words[offset..offset + own.len()].copy_from_slice(own);
            };
            self.meet(put, |words| all.copy_from_slice(&words[..all.len()]))
        }

        fn send(&mut self, message: &[u32]) -> Result<()> {
            let put = |words: &mut Vec<u32>| {
                words.clear();
                words.push(message.len() as u32);
                words.extend_from_slice(message);
            };
            self.meet(put, |_| ())
        }

        fn post(&mut self, message: &[u32]) -> Result<()> {
            let mut meeting = self.meeting.0.lock().map_err(|_| Error::internal("a CPU thread panicked"))?;
            let words = &mut meeting.words[self.round % 2];
            words.clear();
            words.push(message.len() as u32);
            words.extend_from_slice(message);
            self.round += 1;
            meeting.arrived[self.rank] = self.round;
            self.meeting.1.notify_all();
            Ok(())
        }

        fn met(&self) -> bool {
            self.meeting.0.lock().is_ok_and(|meeting| meeting.arrived.iter().all(|a| *a >= self.round))
        }

        fn receive(&mut self, message: &mut Vec<u32>) -> Result<()> {
            message.clear();
            self.meet(|_| (), |words| message.extend_from_slice(&words[1..1 + words[0] as usize]))
        }

        fn fail(&mut self, error: &Error) {
            if let Ok(mut meeting) = self.meeting.0.lock() {
                meeting.failed.get_or_insert_with(|| error.clone());
            }
            self.meeting.1.notify_all();
        }

        fn take_waited(&mut self) -> Duration {
            std::mem::take(&mut self.waited)
        }
    }

    impl Drop for Threads {
        /// Ranks that wait for this one must not wait for ever.
        fn drop(&mut self) {
            if self.count > 1 {
                self.fail(&Error::Closed { what: "the CPU thread" });
            }
        }
    }
}
