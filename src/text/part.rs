//! What only some models need of text, from `mobilellm_text`: linked natively; in a browser each kind is a module of its
//! own, which the worker fetches before it is used.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::sync::OnceLock;

#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
pub use module::install;
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
use module::{Part, at_hand};
#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
use native::{Part, at_hand};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `mobilellm_text::templates`
    Templates,
    /// `mobilellm_text::splitter`
    Splitter,
}

/// A part that is opened when it is first called, or at once where it can be.
pub(super) struct LazyPart {
    kind: Kind,
    specification: String,
    part: OnceLock<Part>,
}

impl LazyPart {
    /// # Errors
    /// What is wrong with the specification, in words; without the module only [`call`](Self::call) tells.
    pub fn new(kind: Kind, specification: &impl Serialize) -> Result<Self, String> {
        let specification = serde_json::to_string(specification).map_err(|e| e.to_string())?;
        let lazy = LazyPart { kind, specification, part: OnceLock::new() };
        if at_hand(kind) {
            lazy.open()?;
        }
        Ok(lazy)
    }

    /// Whether it is open or can be opened now.
    pub fn at_hand(&self) -> bool {
        self.part.get().is_some() || at_hand(self.kind)
    }

    pub fn open(&self) -> Result<&Part, String> {
        if let Some(part) = self.part.get() {
            return Ok(part);
        }
        let part = Part::open(self.kind, &self.specification)?;
        Ok(self.part.get_or_init(|| part))
    }

    /// # Errors
    /// As [`new`](Self::new), or why there is no answer.
    pub fn call<T: DeserializeOwned>(&self, request: &impl Serialize) -> Result<T, String> {
        let request = serde_json::to_string(request).map_err(|e| e.to_string())?;
        serde_json::from_str(&self.open()?.call(&request)?).map_err(|e| e.to_string())
    }
}

impl fmt::Debug for LazyPart {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.specification)
    }
}

#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
mod native {
    use super::Kind;
    use mobilellm_text::{Part as _, splitter::Splitter, templates::Templates};

    pub fn at_hand(_: Kind) -> bool {
        true
    }

    pub enum Part {
        Templates(Box<Templates>),
        Splitter(Box<Splitter>),
    }

    impl Part {
        pub fn open(kind: Kind, specification: &str) -> Result<Self, String> {
            match kind {
                Kind::Templates => Templates::open(specification).map(|templates| Part::Templates(Box::new(templates))),
                Kind::Splitter => Splitter::open(specification).map(|splitter| Part::Splitter(Box::new(splitter))),
            }
        }

        pub fn call(&self, request: &str) -> Result<String, String> {
            match self {
                Part::Templates(templates) => templates.call(request),
                Part::Splitter(splitter) => splitter.call(request),
            }
        }
    }
}

#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
mod module {
    use super::Kind;
    use std::cell::RefCell;

    type Call = Box<dyn Fn(&str) -> Result<String, String>>;
    type Open = Box<dyn Fn(&str) -> Result<Call, String>>;

    thread_local! {
        /// By [`Kind`].
        static OPEN: [RefCell<Option<Open>>; 2] = const { [RefCell::new(None), RefCell::new(None)] };
    }

    /// Says how to open parts of a kind, once its module is there.
    pub fn install(kind: Kind, open: Open) {
        OPEN.with(|all| *all[kind as usize].borrow_mut() = Some(open));
    }

    pub fn at_hand(kind: Kind) -> bool {
        OPEN.with(|all| all[kind as usize].borrow().is_some())
    }

    pub struct Part(Call);

    impl Part {
        pub fn open(kind: Kind, specification: &str) -> Result<Self, String> {
            OPEN.with(|all| match &*all[kind as usize].borrow() {
                Some(open) => open(specification).map(Part),
                None => Err(format!("the module {kind:?} was not loaded")),
            })
        }

        pub fn call(&self, request: &str) -> Result<String, String> {
            (self.0)(request)
        }
    }
}
