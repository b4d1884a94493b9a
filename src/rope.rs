//! Rotary position embeddings: the frequencies of a model and how they are stretched for longer contexts, with the formulas of
//! transformers' `modeling_rope_utils.py`.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// How frequencies differ from theta^(-2j/head_dim). Field names are those of `rope_parameters` (`rope_scaling` in older files).
///
/// The kind `dynamic` has no variant: it changes nothing up to `max_position_embeddings`, and no session is longer than that.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub enum RopeScaling {
    #[default]
    None,
    /// Position interpolation (Chen et al. 2023): every frequency divided by `factor`.
    Linear { factor: f64 },
    /// LLaMA 3.1: low frequencies divided by `factor`, high ones kept, those between interpolated.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original: f64 },
    /// YaRN (Peng et al. 2023).
    Yarn(Yarn),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Yarn {
    pub factor: f64,
    /// Multiplies queries and keys; `None`: as `factor`, `mscale` and `mscale_all_dim` imply.
    pub attention_factor: Option<f64>,
    pub mscale: Option<f64>,
    pub mscale_all_dim: Option<f64>,
    pub beta_fast: f64,
    pub beta_slow: f64,
    /// `original_max_position_embeddings`: the context before it was stretched, in tokens.
    pub original: f64,
    /// Round the borders of the ramp to whole dimensions.
    pub truncate: bool,
}

/// What a backend rotates with: the pair (j, j + head_dim/2) by position x `inverse_frequencies[j]`, cosine and sine multiplied
/// by `attention_factor`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// (head_dim / 2)
    pub inverse_frequencies: Vec<f32>,
    pub attention_factor: f32,
}

impl Rope {
    pub fn new(theta: f64, head_dim: usize, scaling: &RopeScaling) -> Self {
        let plain = (0..head_dim / 2).map(|j| 1.0 / theta.powf(2.0 * j as f64 / head_dim as f64) as f32);
        let mut attention_factor = 1.0;
        let inverse_frequencies = match scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / *factor as f32).collect(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                let stretch = |f: f32| {
                    let wavelength = 2.0 * PI / f64::from(f);
                    if wavelength > original / low_freq_factor {
                        return (f64::from(f) / factor) as f32;
                    }
                    if wavelength < original / high_freq_factor {
                        return f;
                    }
                    let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (f64::from(f) * ((1.0 - smooth) / factor + smooth)) as f32
                };
                plain.map(stretch).collect()
            }
            RopeScaling::Yarn(yarn) => {
                attention_factor = yarn.attention_factor();
                let (low, high) = yarn.ramp(theta, head_dim);
                let stretch = |(j, f): (usize, f32)| {
                    let ramp = ((j as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    (f64::from(f) * (ramp / yarn.factor + 1.0 - ramp)) as f32
                };
                plain.enumerate().map(stretch).collect()
            }
        };
        Rope { inverse_frequencies, attention_factor: attention_factor as f32 }
    }

    /// (sine, cosine) for each pair of a head at `position`.
    pub fn rotation(&self, position: usize) -> impl Iterator<Item = (f32, f32)> {
        self.inverse_frequencies.iter().map(move |frequency| {
            let (sin, cos) = (position as f32 * frequency).sin_cos();
            (sin * self.attention_factor, cos * self.attention_factor)
        })
    }
}

impl Yarn {
    fn attention_factor(&self) -> f64 {
        let scale = |mscale: f64| if self.factor <= 1.0 { 1.0 } else { 0.1 * mscale * self.factor.ln() + 1.0 };
        match (self.attention_factor, self.mscale, self.mscale_all_dim) {
            (Some(given), ..) => given,
            (None, Some(over), Some(under)) if over != 0.0 && under != 0.0 => scale(over) / scale(under),
            _ => scale(1.0),
        }
    }

    /// The dimensions between which frequencies go from kept to divided.
    fn ramp(&self, theta: f64, head_dim: usize) -> (f64, f64) {
        let dim = head_dim as f64;
        let at = |rotations: f64| dim * (self.original / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let (mut low, mut high) = (at(self.beta_fast), at(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high { (low, high + 0.001) } else { (low, high) }
    }
}
