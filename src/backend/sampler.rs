//! Logits -> id. Plain, exact, seeded; the reference for any sampler that runs on a device.
//!
//! Order: penalties, temperature, top-k, top-p, min-p, then one draw from what is left, renormalised.
//! The draw walks the kept ids in ascending order and takes the first whose cumulative probability exceeds the uniform.

use crate::error::{Error, Result};

/// How ids are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0: greedy (the highest logit; of equal ones the lowest id). Else logits are divided by it.
    pub temperature: f32,
    /// Keep the k highest logits (ties with the k-th are kept); 0: all.
    pub top_k: u32,
    /// Keep the smallest set of most probable ids whose probability reaches this (Holtzman et al. 2020); 1: all.
    pub top_p: f32,
    /// Keep ids at least this fraction as probable as the most probable one; 0: all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of ids seen in prompt or answer (Keskar et al. 2019); 1: off.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of every id already in the answer; 0: off.
    pub presence_penalty: f32,
    /// Subtracted from the logit once for each time that the id is in the answer; 0: off.
    pub frequency_penalty: f32,
    /// Same seed, same uniforms.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Checks every range; the error names the option as JavaScript spells it.
    pub fn validate(&self) -> Result<()> {
        let in_range = |name: &str, value: f32, low: f32, high: f32| {
            if value.is_finite() && (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(Error::option(name, format!("{value} is not a number from {low} to {high}")))
            }
        };
        in_range("temperature", self.temperature, 0.0, 100.0)?;
        in_range("topP", self.top_p, f32::MIN_POSITIVE, 1.0)?;
        in_range("minP", self.min_p, 0.0, 1.0)?;
        in_range("repetitionPenalty", self.repetition_penalty, 0.01, 100.0)?;
        in_range("presencePenalty", self.presence_penalty, -100.0, 100.0)?;
        in_range("frequencyPenalty", self.frequency_penalty, -100.0, 100.0)
    }

    /// Whether chosen ids change the logits of later steps.
    pub fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Uniform in [0, 1) for the `step`-th id of an answer: depends on seed and step alone, so that steps may be prepared ahead.
    pub fn uniform(&self, step: u64) -> f32 {
        let mut z = self.seed ^ step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // splitmix64 finaliser (Steele et al. 2014), twice, so that neighbouring seeds do not give shifted sequences
        for _ in 0..2 {
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
        }
        (z >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// Chooses ids for one answer.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    /// Ids of prompt and answer; only kept where penalties need them.
    seen: Vec<bool>,
    /// Times that each id is in the answer.
    counts: Vec<u32>,
    scratch: Vec<f32>,
    order: Vec<u32>,
}

impl Sampler {
    /// `prompt` and `answer` are what penalties look back on; `answer` is empty unless one goes on.
    pub fn new(sampling: &Sampling, vocab: usize, prompt: &[u32], answer: &[u32]) -> Self {
        let mut sampler = Sampler {
            sampling: sampling.clone(),
            seen: Vec::new(),
            counts: Vec::new(),
            scratch: Vec::new(),
            order: Vec::new(),
        };
        if sampling.has_penalties() {
            sampler.seen = vec![false; vocab];
            sampler.counts = vec![0; vocab];
            for &id in prompt {
                sampler.seen[id as usize] = true;
            }
            for &id in answer {
                sampler.remember(id);
            }
        }
        sampler
    }

    /// Chooses an id and remembers it for the penalties. `logits`: (vocab); `uniform` in [0, 1).
    pub fn choose(&mut self, logits: &[f32], uniform: f32) -> u32 {
        let mut work = std::mem::take(&mut self.scratch);
        work.clear();
        work.extend_from_slice(logits);
        self.penalise(&mut work);
        let id = if self.sampling.temperature == 0.0 { argmax(&work) } else { self.draw(&mut work, uniform) };
        self.scratch = work;
        self.remember(id);
        id
    }

    fn remember(&mut self, id: u32) {
        if !self.seen.is_empty() {
            self.seen[id as usize] = true;
            self.counts[id as usize] += 1;
        }
    }

    fn penalise(&self, logits: &mut [f32]) {
        let s = &self.sampling;
        for ((logit, &seen), &count) in logits.iter_mut().zip(&self.seen).zip(&self.counts) {
            if seen && *logit > 0.0 {
                *logit /= s.repetition_penalty;
            } else if seen {
                *logit *= s.repetition_penalty;
            }
            if count > 0 {
                *logit -= s.presence_penalty + s.frequency_penalty * count as f32;
            }
        }
    }

    /// `logits` become unnormalised probabilities, 0 where an id is not kept.
    fn draw(&mut self, logits: &mut [f32], uniform: f32) -> u32 {
        let s = &self.sampling;
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if s.top_k > 0 && (s.top_k as usize) < logits.len() {
            let mut sorted = logits.to_vec();
            let (_, kth, _) = sorted.select_nth_unstable_by(s.top_k as usize - 1, |a, b| b.total_cmp(a));
            let threshold = *kth;
            for logit in logits.iter_mut().filter(|l| **l < threshold) {
                *logit = f32::NEG_INFINITY;
            }
        }
        for logit in logits.iter_mut() {
            *logit = ((*logit - max) / s.temperature).exp();
        }
        let weights = logits;
        if s.top_p < 1.0 {
            let total: f64 = weights.iter().map(|&w| w as f64).sum();
            self.order.clear();
            self.order.extend((0..weights.len() as u32).filter(|&id| weights[id as usize] > 0.0));
            self.order.sort_unstable_by(|&a, &b| weights[b as usize].total_cmp(&weights[a as usize]).then(a.cmp(&b)));
            let mut cumulative = 0.0;
            let kept = self.order.iter().position(|&id| {
                cumulative += weights[id as usize] as f64;
                cumulative >= s.top_p as f64 * total
            });
            for &id in &self.order[kept.map_or(self.order.len(), |k| k + 1)..] {
                weights[id as usize] = 0.0;
            }
        }
        if s.min_p > 0.0 {
            for weight in weights.iter_mut().filter(|w| **w < s.min_p) {
                *weight = 0.0; // the most probable id has weight 1
            }
        }
        let total: f64 = weights.iter().map(|&w| w as f64).sum();
        let target = uniform as f64 * total;
        let mut cumulative = 0.0;
        let mut last = 0;
        for (id, &weight) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
            cumulative += weight as f64;
            last = id as u32;
            if cumulative > target {
                break;
            }
        }
        last
    }
}

/// The highest value's index; of equal ones the lowest.
pub fn argmax(values: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &v) in values.iter().enumerate() {
        if v > values[best] {
            best = i;
        }
    }
    best as u32
}

/// Natural log-probabilities of a row of logits.
pub fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| ((l - max) as f64).exp()).sum();
    let log_sum = max as f64 + sum.ln();
    logits.iter().map(|&l| (l as f64 - log_sum) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [2.0, 1.0, 0.0, -1.0, 3.0, 2.5];

    /// Exact probabilities, computed another way: sort, cut, renormalise.
    fn expected(s: &Sampling, logits: &[f32]) -> Vec<f64> {
        let exps: Vec<f64> = logits.iter().map(|&l| (l as f64 / s.temperature as f64).exp()).collect();
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        ids.sort_by(|&a, &b| exps[b].total_cmp(&exps[a]));
        if s.top_k > 0 {
            ids.truncate(s.top_k as usize);
        }
        let total: f64 = ids.iter().map(|&i| exps[i]).sum();
        let mut kept = Vec::new();
        let mut cumulative = 0.0;
        for &id in &ids {
            if cumulative >= s.top_p as f64 * total || exps[id] < s.min_p as f64 * exps[ids[0]] {
                break;
            }
            kept.push(id);
            cumulative += exps[id];
        }
        let mut p = vec![0.0; logits.len()];
        kept.iter().for_each(|&id| p[id] = exps[id] / cumulative);
        p
    }

    /// Chi-square of 40,000 draws against the exact distribution, for each cut and for all together.
    #[test]
    fn draws_follow_the_distribution() {
        let base = Sampling { temperature: 0.8, seed: 7, ..Sampling::default() };
        for sampling in [
            base.clone(),
            Sampling { top_k: 3, ..base.clone() },
            Sampling { top_p: 0.7, ..base.clone() },
            Sampling { min_p: 0.2, ..base.clone() },
            Sampling { top_k: 5, top_p: 0.95, min_p: 0.05, temperature: 1.7, ..base },
        ] {
            let p = expected(&sampling, &LOGITS);
            let n = 40_000;
            let mut counts = [0.0; LOGITS.len()];
            let mut sampler = Sampler::new(&sampling, LOGITS.len(), &[], &[]);
            for step in 0..n {
                counts[sampler.choose(&LOGITS, sampling.uniform(step)) as usize] += 1.0;
            }
            let mut chi2 = 0.0;
            for (count, p) in counts.iter().zip(&p) {
                if *p == 0.0 {
                    assert_eq!(*count, 0.0, "{sampling:?} drew an id that was cut");
                } else {
                    chi2 += (count - p * n as f64).powi(2) / (p * n as f64);
                }
            }
            assert!(chi2 < 20.5, "{sampling:?}: chi-square {chi2} (0.1% level at 5 degrees of freedom)");
        }
    }

    #[test]
    fn greedy_takes_the_lowest_of_equal_ids() {
        let mut sampler = Sampler::new(&Sampling::default(), 4, &[], &[]);
        assert_eq!(sampler.choose(&[1.0, 3.0, 3.0, 2.0], 0.9), 1);
    }

    #[test]
    fn penalties() {
        let s = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        let mut sampler = Sampler::new(&s, 3, &[0], &[]);
        assert_eq!(sampler.choose(&[1.9, 1.0, -5.0], 0.0), 1, "0 was in the prompt: 0.95 < 1");
        assert_eq!(sampler.choose(&[1.9, 1.0, -5.0], 0.0), 0, "1 is penalised too now: 0.95 > 0.5");
        let s = Sampling { frequency_penalty: 0.4, presence_penalty: 0.1, ..Sampling::default() };
        let mut sampler = Sampler::new(&s, 2, &[0], &[]);
        let picks: Vec<u32> = (0..4).map(|_| sampler.choose(&[1.0, 0.4], 0.0)).collect();
        assert_eq!(picks, [0, 0, 1, 0], "0: 1.0, 0.5, 0.1 | 0.4 -> 1: 0.4 | 0: 0.1, 1: -0.1");
    }

    #[test]
    fn same_seed_same_uniforms_and_neighbours_differ() {
        let a = Sampling { seed: 1, ..Sampling::default() };
        let b = Sampling { seed: 2, ..Sampling::default() };
        let draws = |s: &Sampling| (0..1000).map(|i| s.uniform(i)).collect::<Vec<_>>();
        assert_eq!(draws(&a), draws(&a));
        assert_eq!(draws(&a).iter().filter(|u| draws(&b)[..8].contains(u)).count(), 0);
        let mean = draws(&a).iter().sum::<f32>() / 1000.0;
        assert!((mean - 0.5).abs() < 0.04, "{mean}");
    }

    #[test]
    fn out_of_range_options_are_named() {
        let bad = Sampling { top_p: 0.0, ..Sampling::default() };
        assert!(matches!(bad.validate(), Err(Error::InvalidOption { name, .. }) if name == "topP"));
        let bad = Sampling { temperature: f32::NAN, ..Sampling::default() };
        assert!(matches!(bad.validate(), Err(Error::InvalidOption { name, .. }) if name == "temperature"));
    }
}
