//! The present problems, as messages. Must not know where they come from, nor how they are reported.

use std::collections::BTreeSet;

/// The present problems.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<String>);

impl Problems {
    /// The present problems, as messages.
    pub(super) fn present(&self) -> &[String] {
        &self.0
    }

    /// Replaces the present problems. Returns those that are new: a problem is reported when it appears, and not
    /// again while it lasts.
    pub(super) fn replace(&mut self, problems: Vec<String>) -> Vec<String> {
        let is_new = |problem: &&String| !self.0.contains(problem);
        let new = problems.iter().filter(is_new).cloned().collect();
        self.0 = problems;
        new
    }

    /// Adds problems to the present ones. Returns those that are new.
    pub(super) fn add(&mut self, problems: Vec<String>) -> Vec<String> {
        let all: BTreeSet<_> = self.0.iter().cloned().chain(problems).collect();
        self.replace(all.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_problem_is_new_once_while_it_lasts() {
        let mut problems = Problems::default();
        assert_eq!(problems.replace(texts(&["a", "b"])), ["a", "b"]);
        assert_eq!(problems.replace(texts(&["b"])), Vec::<String>::new());
        assert_eq!(problems.add(texts(&["c", "b"])), ["c"]);
        assert_eq!(problems.present(), ["b", "c"]);
        assert_eq!(problems.replace(texts(&["a"])), ["a"], "it has come back");
    }
}
