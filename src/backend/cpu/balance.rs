//! Whether several threads pay, by the clock.
//!
//! Threads meet some hundred times a pass, and a meeting lasts until the last one is there. On a quiet machine that costs microseconds.
//! Where other programs want the same cores, the system sets a thread aside for milliseconds at a time, and all the others wait: two
//! threads are then several times slower than one. [`Balance`] compares what the leader waits with what it computes, and says when
//! it is better off alone and when to try again.

use std::time::Duration;
use web_time::Instant;

/// Seconds, and passes, before anything is decided; after twice the time older passes count half. New threads run code that is still
/// being compiled.
const WINDOW: f64 = 0.1;
const FEWEST: u32 = 3;
/// Together must be at least this much faster than alone to be worth it.
pub const GAIN: f64 = 1.1;
/// Time alone before the first new try, and the longest; each try that fails doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Together for so long, a return to working alone is a new event and not the end of a try that failed.
const SETTLED: Duration = Duration::from_secs(5);

/// Keeps the account of one leader.
pub struct Balance {
    count: f64,
    passes: u32,
    /// Seconds.
    work: f64,
    waited: f64,
    pause: Duration,
    /// When the threads last parted or came together.
    changed: Instant,
}

impl Balance {
    pub fn new(count: usize, now: Instant) -> Self {
        Balance { count: count as f64, passes: 0, work: 0.0, waited: 0.0, pause: FIRST_PAUSE, changed: now }
    }

    /// Takes one pass of all threads into account: its duration, and what of it the leader waited. Says whether going on alone is
    /// faster.
    pub fn loses(&mut self, pass: Duration, waited: Duration) -> bool {
        let work = pass.saturating_sub(waited).as_secs_f64();
        self.passes += 1;
        self.work += work;
        // One long pause of the whole machine is no sign: it counts as a pass that is as slow as one thread.
        self.waited += waited.as_secs_f64().min(self.count * work);
        let all = self.work + self.waited;
        if self.passes < FEWEST || all < WINDOW {
            return false;
        }
        let loses = GAIN * all > self.count * self.work;
        if all > 2.0 * WINDOW {
            self.work /= 2.0;
            self.waited /= 2.0;
        }
        loses
    }

    /// The leader goes on alone.
    pub fn part(&mut self, now: Instant) {
        if now.saturating_duration_since(self.changed) < SETTLED {
            self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        } else {
            self.pause = FIRST_PAUSE;
        }
        self.restart(now);
    }

    /// The leader begins alone: what made the others slow may only be the browser, which compiles.
    pub fn begin_alone(&mut self, now: Instant) {
        self.pause = FIRST_PAUSE / 2;
        self.restart(now);
    }

    /// Whether, alone, it is time to try again.
    pub fn due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.changed) >= self.pause
    }

    /// A try failed.
    pub fn postpone(&mut self, now: Instant) {
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        self.restart(now);
    }

    /// All threads compute again.
    pub fn join(&mut self, now: Instant) {
        self.restart(now);
    }

    fn restart(&mut self, now: Instant) {
        (self.passes, self.work, self.waited, self.changed) = (0, 0.0, 0.0, now);
    }
}

/// Rounds of equal work, each followed by a meeting.
#[derive(Default)]
pub struct Stretch {
    all: Duration,
    /// The leader's work of each round.
    work: Vec<Duration>,
}

impl Stretch {
    /// One round, and what of it the leader waited.
    pub fn add(&mut self, round: Duration, waited: Duration) {
        self.work.push(round.saturating_sub(waited));
        self.all += round;
    }

    pub fn duration(&self) -> Duration {
        self.all
    }

    /// How many times as fast as one thread `count` of them were. Alone, a round would take the leader what its quicker rounds took:
    /// in the slower ones something came between.
    pub fn speedup(&mut self, count: usize) -> f64 {
        self.work.sort();
        let quick = self.work.get(self.work.len() / 4).copied().unwrap_or_default();
        count as f64 * self.work.len() as f64 * quick.as_secs_f64() / self.all.as_secs_f64().max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn balance(count: usize) -> (Balance, Instant) {
        let now = Instant::now();
        (Balance::new(count, now), now)
    }

    #[test]
    fn a_quiet_machine_stays_together() {
        for count in [2, 4, 8] {
            let (mut balance, _) = balance(count);
            // A fifth of each pass is imbalance; one pass in forty is held up for long.
            assert!((0..4000).all(|i| {
                let stall = if i % 40 == 39 { 100 * MS } else { Duration::ZERO };
                !balance.loses(10 * MS + stall, 2 * MS + stall)
            }));
        }
    }

    #[test]
    fn waiting_longer_than_the_work_parts_two_threads_after_a_few_passes() {
        for (pass, passes) in [(5, 20), (20, 5), (200, 3)] {
            let (mut balance, _) = balance(2);
            assert_eq!((1..).find(|_| balance.loses(pass * MS, pass * MS * 3 / 5)), Some(passes));
        }
    }

    #[test]
    fn many_threads_stay_together_while_they_are_faster_than_one() {
        let (mut balance, _) = balance(8);
        assert!((0..100).all(|_| !balance.loses(40 * MS, 30 * MS)));
        assert!((0..20).any(|_| balance.loses(100 * MS, 90 * MS)));
    }

    #[test]
    fn tries_become_rarer_and_a_long_time_together_forgives() {
        let (mut balance, mut now) = balance(2);
        let mut waits = Vec::new();
        for _ in 0..7 {
            now += MS;
            balance.part(now);
            let wait = (1..).map(|ms| ms * MS).find(|wait| balance.due(now + *wait)).unwrap();
            waits.push(wait.as_millis());
            now += wait;
            balance.join(now);
        }
        assert_eq!(waits, [1000, 2000, 4000, 8000, 8000, 8000, 8000]);
        now += SETTLED;
        balance.part(now);
        assert!(balance.due(now + FIRST_PAUSE));
        balance.postpone(now);
        assert!(!balance.due(now + FIRST_PAUSE));
    }

    #[test]
    fn a_stretch_of_equal_rounds_is_compared_with_its_quick_ones() {
        let mut stretch = Stretch::default();
        assert_eq!(stretch.speedup(2), 0.0);
        // Half a millisecond of work each: alone 5 ms for the leader, 10 for both.
        (0..9).for_each(|_| stretch.add(MS / 2, Duration::ZERO));
        stretch.add(5 * MS + MS / 2, Duration::ZERO);
        assert!((stretch.speedup(2) - 1.0).abs() < 1e-9);
        stretch.add(10 * MS + MS / 2, 10 * MS);
        assert!((stretch.speedup(2) - 11.0 / 20.5).abs() < 1e-9);
    }
}
