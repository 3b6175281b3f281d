//! Sets of completion indexes as Jobs write them: `0,2-5,7`.

use std::collections::BTreeSet;

/// A set of indexes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Indexes(BTreeSet<i32>);

impl Indexes {
    /// Reads the text; what is no index is left out, and so is what is not below `completions`.
    pub(crate) fn parse(text: &str, completions: i32) -> Indexes {
        let mut all = BTreeSet::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
                all.extend(first.max(0)..=last.min(completions - 1));
            }
        }
        Indexes(all)
    }

    /// Whether an index is in it.
    pub(crate) fn has(&self, index: i32) -> bool {
        self.0.contains(&index)
    }

    /// Adds one; whether it was new.
    pub(crate) fn add(&mut self, index: i32) -> bool {
        self.0.insert(index)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> i32 {
        self.0.len() as i32
    }

    /// The text: runs of three and more as a range, two as a pair.
    pub(crate) fn text(&self) -> String {
        let mut parts: Vec<(i32, i32)> = Vec::new();
        for index in &self.0 {
            match parts.last_mut() {
                Some((_, last)) if *last + 1 == *index => *last = *index,
                _ => parts.push((*index, *index)),
            }
        }
        let text = parts.into_iter().map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        });
        text.collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_round_trip() {
        for (text, completions, wanted, count) in
            [("", 5, "", 0), ("0,2-5,7", 9, "0,2-5,7", 6), ("1,2", 9, "1,2", 2), ("1-2,3", 9, "1-3", 3), ("0-9", 4, "0-3", 4)]
        {
            let indexes = Indexes::parse(text, completions);
            assert_eq!((indexes.text().as_str(), indexes.count()), (wanted, count), "{text}");
        }
    }
}
