//! How shaders may be written for a device.

/// How the kernels are written: what of the device they use. Any device computes [`Variant::PLAIN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Variant {
    /// Sums within subgroups.
    pub subgroups: bool,
    /// Tiles of the many-row product as f16.
    pub f16: bool,
}

impl Variant {
    pub const PLAIN: Variant = Variant { subgroups: false, f16: false };

    /// This one and simpler ones, down to the plain one.
    pub fn simpler(self) -> Vec<Variant> {
        let mut list = vec![self];
        if self.f16 && self.subgroups {
            list.push(Variant { f16: false, ..self });
        }
        if self != Variant::PLAIN {
            list.push(Variant::PLAIN);
        }
        list
    }

    /// As `info.features` names it.
    pub fn features(self) -> Vec<String> {
        let named = [(self.f16, "shader-f16"), (self.subgroups, "subgroups")];
        named.into_iter().filter(|(used, _)| *used).map(|(_, name)| name.to_owned()).collect()
    }
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let features = self.features();
        if features.is_empty() { f.write_str("plain kernels") } else { f.write_str(&features.join(" and ")) }
    }
}

/// A test's way to damage a shader: name and text of each -> the text to compile.
pub type Alter = fn(&str, String) -> String;
