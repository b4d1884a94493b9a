//! How much work goes to the device at once, by what earlier work took: a page's own frames are drawn between submissions.

use std::sync::{Arc, Mutex};
use web_time::Instant;

/// Steps on the device at once, where it is fast: hides the way there and back; more gains nothing (bench/README.md).
pub const IN_FLIGHT: usize = 4;

/// GPU time of one submission, in milliseconds, unless asked otherwise: a frame at 60 Hz.
pub const BUDGET_MS: f64 = 16.0;

#[derive(Default)]
struct Measured {
    /// Milliseconds of a layer of one step, and of a row of a layer of many.
    step: Option<f64>,
    row: Option<f64>,
    done: Option<Instant>,
}

pub struct Pace {
    budget_ms: f64,
    in_flight: Option<usize>,
    /// Layers of the last pass, so far.
    layers: usize,
    /// Layers (of a step) or rows x layers recorded since the last submission.
    recorded: f64,
    many: bool,
    measured: Arc<Mutex<Measured>>,
    submissions: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            budget_ms: BUDGET_MS,
            in_flight: None,
            layers: 0,
            recorded: 0.0,
            many: false,
            measured: Arc::default(),
            submissions: 0,
        }
    }
}

impl Pace {
    pub fn set_budget(&mut self, milliseconds: f64) {
        self.budget_ms = milliseconds;
    }

    pub fn fix_in_flight(&mut self, steps: usize) {
        self.in_flight = Some(steps.max(1));
    }

    pub fn submissions(&self) -> u64 {
        self.submissions
    }

    /// A pass begins.
    pub fn pass(&mut self) {
        self.layers = 0;
    }

    /// A layer was recorded. True once what is recorded is expected to fill the budget. Nothing is known before the first
    /// submission is done: what that one holds is not cut.
    pub fn layer(&mut self, rows: usize, many: bool) -> bool {
        self.layers += 1;
        self.many = many;
        self.recorded += if many { rows as f64 } else { 1.0 };
        let Ok(measured) = self.measured.lock() else { return false };
        let each = if many { measured.row } else { measured.step };
        each.is_some_and(|each| (self.recorded + if many { rows as f64 } else { 1.0 }) * each > self.budget_ms)
    }

    /// What was recorded is on its way: returns what to call when it is done.
    pub fn submitted(&mut self) -> impl FnOnce() + Send + 'static {
        let (recorded, many) = (std::mem::take(&mut self.recorded), self.many);
        self.submissions += 1;
        let (measured, submitted) = (self.measured.clone(), Instant::now());
        move || {
            let Ok(mut measured) = measured.lock() else { return };
            let now = Instant::now();
            // It began when it was handed over, or when its forerunner ended.
            let began = measured.done.map_or(submitted, |done| done.max(submitted));
            measured.done = Some(now);
            if recorded > 0.0 {
                let each = (now - began).as_secs_f64() * 1e3 / recorded;
                let known = if many { &mut measured.row } else { &mut measured.step };
                // Whatever else delays an answer makes it longer, nothing makes it shorter.
                *known = Some(known.map_or(each, |known| if each < known { each } else { 0.9 * known + 0.1 * each }));
            }
        }
    }

    /// Steps of two budgets, at least two: with one the device idles on the way there and back.
    pub fn in_flight(&self) -> usize {
        if let Some(steps) = self.in_flight {
            return steps;
        }
        let step = self.measured.lock().ok().and_then(|m| m.step).map(|layer| layer * self.layers as f64);
        step.map_or(IN_FLIGHT, |step| ((2.0 * self.budget_ms / step) as usize).clamp(2, IN_FLIGHT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_and_holds_back_once_a_step_is_known_to_be_slow() {
        let mut pace = Pace::default();
        pace.pass();
        assert!((0..10).all(|_| !pace.layer(1, false)), "the first submission is not cut");
        assert_eq!(pace.in_flight(), IN_FLIGHT);
        let done = pace.submitted();
        std::thread::sleep(std::time::Duration::from_millis(60)); // 6 ms a layer
        done();
        assert_eq!(pace.in_flight(), 2);
        pace.pass();
        let cuts: Vec<bool> = (0..4).map(|_| pace.layer(1, false)).collect();
        assert_eq!(cuts, [false, true, true, true], "two layers of 6 ms fit into 16 ms, a third one does not");
        pace.set_budget(1000.0);
        assert_eq!(pace.in_flight(), IN_FLIGHT);
    }
}
