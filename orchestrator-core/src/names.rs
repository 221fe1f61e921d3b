//! Names with dense numbers: one buffer of text, eleven bytes of index and five of position a name.

use hashbrown::HashTable;
use serde::{Deserialize, Serialize};

use crate::draw::draw;
use crate::room;

/// Numbers are handed out in order; the smallest free one is taken first.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub(crate) struct Names {
    text: String,
    starts: Vec<u32>,
    /// 0 = the number is free.
    lens: Vec<u8>,
    /// Looked up only, never walked: its order means nothing.
    index: HashTable<u32>,
    free: std::collections::BTreeSet<u32>,
    garbage_bytes: usize,
}

/// The index follows from the rest.
impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, &self.starts, &self.lens) == (&other.text, &other.starts, &other.lens)
    }
}

impl Names {
    /// How many there are.
    pub(crate) fn used(&self) -> usize {
        self.lens.len() - self.free.len()
    }

    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.index
            .find(hash(name), |&number| self.get(number) == name)
            .copied()
    }

    /// The empty text for a free number.
    pub(crate) fn get(&self, number: u32) -> &str {
        let start = self.starts[number as usize] as usize;
        &self.text[start..start + self.lens[number as usize] as usize]
    }

    /// One more than the highest number ever in use.
    pub(crate) fn len(&self) -> usize {
        self.lens.len()
    }

    pub(crate) fn reserve(&mut self, more: usize, bytes: usize) {
        room::reserve(&mut self.starts, more);
        room::reserve(&mut self.lens, more);
        room::reserve_text(&mut self.text, bytes);
        let Self {
            index,
            text,
            starts,
            lens,
            ..
        } = self;
        index.reserve(more, |&n| {
            let start = starts[n as usize] as usize;
            hash(&text[start..start + lens[n as usize] as usize])
        });
    }

    /// `name` must not be there yet, and must be 1 to 255 bytes long.
    pub(crate) fn insert(&mut self, name: &str) -> u32 {
        let number = match self.free.pop_first() {
            Some(number) => number,
            None => {
                room::push(&mut self.starts, 0);
                room::push(&mut self.lens, 0);
                (self.lens.len() - 1) as u32
            }
        };
        self.starts[number as usize] = self.text.len() as u32;
        self.lens[number as usize] = name.len() as u8;
        room::reserve_text(&mut self.text, name.len());
        self.text.push_str(name);
        let Self {
            index,
            text,
            starts,
            lens,
            ..
        } = self;
        index.insert_unique(hash(name), number, |&n| {
            let start = starts[n as usize] as usize;
            hash(&text[start..start + lens[n as usize] as usize])
        });
        number
    }

    pub(crate) fn remove(&mut self, number: u32) {
        let name = self.get(number).to_owned();
        if let Ok(entry) = self.index.find_entry(hash(&name), |&n| n == number) {
            entry.remove();
        }
        self.garbage_bytes += name.len();
        self.lens[number as usize] = 0;
        self.free.insert(number);
        // Half of it garbage: copying the rest costs no more than writing it did.
        if self.garbage_bytes > self.text.len() / 2 {
            let mut text = String::with_capacity(self.text.len() - self.garbage_bytes);
            for (start, len) in self.starts.iter_mut().zip(&self.lens) {
                let old = *start as usize;
                *start = text.len() as u32;
                text.push_str(&self.text[old..old + *len as usize]);
            }
            self.text = text;
            self.garbage_bytes = 0;
        }
    }
}

impl From<Vec<String>> for Names {
    fn from(list: Vec<String>) -> Self {
        let mut names = Self::default();
        names.reserve(list.len(), list.iter().map(String::len).sum());
        for name in &list {
            if name.is_empty() {
                names.starts.push(0);
                names.lens.push(0);
                continue;
            }
            // Free numbers are marked after the loop, or this would fill them.
            names.insert(name);
        }
        names.free = (0..)
            .zip(&names.lens)
            .filter(|(_, len)| **len == 0)
            .map(|(n, _)| n)
            .collect();
        names
    }
}

impl From<Names> for Vec<String> {
    fn from(names: Names) -> Self {
        (0..names.len() as u32)
            .map(|n| names.get(n).to_owned())
            .collect()
    }
}

fn hash(name: &str) -> u64 {
    draw(0, "name", name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn numbers_are_dense_and_come_back() {
        let mut names = Names::default();
        for i in 0..100 {
            assert_eq!(names.insert(&format!("node-{i}")), i);
        }
        for i in (0..90).rev() {
            names.remove(i);
        }
        assert_eq!(names.find("node-5"), None);
        assert_eq!(names.find("node-95"), Some(95));
        let copy = Names::from(Vec::from(names.clone()));
        for mut names in [names, copy] {
            assert_eq!(names.insert("a"), 0);
            assert_eq!(names.insert("b"), 1);
            assert_eq!(
                (names.get(0), names.get(95), names.find("b")),
                ("a", "node-95", Some(1))
            );
        }
    }
}
