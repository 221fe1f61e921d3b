//! Lists that grow by an eighth where others double: of a million nodes the spare room is most of a
//! list's cost.

/// Makes room for `more` elements; for that and an eighth more than there is, when it has to move.
pub(crate) fn reserve<T>(list: &mut Vec<T>, more: usize) {
    list.reserve_exact(step(list.len(), list.capacity(), more));
}

/// The same for a text and its bytes.
pub(crate) fn reserve_text(text: &mut String, more: usize) {
    text.reserve_exact(step(text.len(), text.capacity(), more));
}

/// Appends an element.
pub(crate) fn push<T>(list: &mut Vec<T>, element: T) {
    reserve(list, 1);
    list.push(element);
}

fn step(len: usize, capacity: usize, more: usize) -> usize {
    if capacity - len >= more {
        return 0;
    }
    more.max(len / 8).max(4)
}

#[cfg(test)]
mod tests {
    use super::{push, reserve};

    #[test]
    fn little_is_spare_and_moves_are_few() {
        let (mut list, mut moves, mut capacity) = (Vec::new(), 0, 0);
        for n in 0..100_000 {
            push(&mut list, n);
            moves += u32::from(list.capacity() != capacity);
            capacity = list.capacity();
        }
        assert!(capacity <= 112_500 && moves < 100, "{capacity}, {moves}");
        let mut list = Vec::<u8>::new();
        reserve(&mut list, 1000);
        assert_eq!(list.capacity(), 1000);
    }
}
