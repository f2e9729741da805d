//! Splits the keys of one call into lines that servers accept.
use super::ClusterError;
use crate::protocol::Key;

/// A node, and the positions of its keys: `None` if the line holds all keys of the call.
pub type NodeLine = (usize, Option<Vec<usize>>);

/// `gats`, a space, the longest exptime, CRLF.
const LINE_HEAD_LEN: usize = 4 + 1 + 11 + 2;

/// The length of the line that holds all keys.
pub fn len_of_one_line(keys: &[Key<'_>]) -> usize {
    LINE_HEAD_LEN + keys.iter().map(len_in_line).sum::<usize>()
}

fn len_in_line(key: &Key<'_>) -> usize {
    key.as_bytes().len() + 1
}

/// The last line of each node in a call, and its length. Kept between calls, because a client has
/// an index for each node that ever existed.
#[derive(Debug, Default)]
pub struct LastLines(Vec<(usize, usize)>);

impl LastLines {
    const NONE: (usize, usize) = (usize::MAX, 0);

    fn clear(&mut self, lines: &[NodeLine]) {
        for (node, _) in lines {
            self.0[*node] = Self::NONE;
        }
    }
}

/// Gives each node one line, or several where `fits(length, node)` refuses a longer one. `node_for`
/// gets a key and its position.
pub fn split(
    keys: &[Key<'_>],
    last: &mut LastLines,
    node_for: impl Fn(usize, Key<'_>) -> Result<usize, ClusterError>,
    fits: impl Fn(usize, usize) -> bool,
) -> Result<Vec<NodeLine>, ClusterError> {
    let mut lines = Vec::new();
    let added = add_lines(&mut lines, keys, last, node_for, fits);
    last.clear(&lines);
    added.map(|()| lines)
}

fn add_lines(
    lines: &mut Vec<NodeLine>,
    keys: &[Key<'_>],
    LastLines(last): &mut LastLines,
    node_for: impl Fn(usize, Key<'_>) -> Result<usize, ClusterError>,
    fits: impl Fn(usize, usize) -> bool,
) -> Result<(), ClusterError> {
    for (position, key) in keys.iter().enumerate() {
        let node = node_for(position, *key)?;
        let key_len = len_in_line(key);
        if node >= last.len() {
            last.resize(node + 1, LastLines::NONE);
        }
        let (at, len) = &mut last[node];
        *len += key_len;
        match lines.get_mut(*at) {
            Some((_, Some(positions))) if fits(*len, node) => positions.push(position),
            _ => {
                (*at, *len) = (lines.len(), LINE_HEAD_LEN + key_len);
                lines.push((node, Some(vec![position])));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first byte of a key is the digit of its node.
    fn node_for(_: usize, key: Key<'_>) -> Result<usize, ClusterError> {
        let digit = key.as_bytes()[0];
        digit.checked_sub(b'0').map(usize::from).ok_or(ClusterError::NoAvailableNodes)
    }

    fn keys<'a>(texts: &[&'a str]) -> Vec<Key<'a>> {
        texts.iter().map(|text| Key::parse(text.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn each_node_gets_the_positions_of_its_keys() {
        let keys = keys(&["2a", "0b", "2c", "0d", "0b"]);
        let lines = split(&keys, &mut LastLines::default(), node_for, |_, _| true).unwrap();
        assert_eq!(lines, [(2, Some(vec![0, 2])), (0, Some(vec![1, 3, 4]))]);
    }

    #[test]
    fn a_line_that_would_be_too_long_is_continued_in_another() {
        let keys = keys(&["0a", "1a", "0b", "1b", "0c"]);
        // Node 0 takes two keys of two bytes in a line, node 1 any number.
        let fits = |len, node| node == 1 || len <= LINE_HEAD_LEN + 2 * 3;
        let lines = split(&keys, &mut LastLines::default(), node_for, fits).unwrap();
        assert_eq!(lines, [(0, Some(vec![0, 2])), (1, Some(vec![1, 3])), (0, Some(vec![4]))]);
        assert_eq!(len_of_one_line(&keys), LINE_HEAD_LEN + 5 * 3);
    }

    #[test]
    fn a_key_that_is_too_long_for_a_line_has_its_own() {
        let keys = keys(&["0a", "0b"]);
        let lines = split(&keys, &mut LastLines::default(), node_for, |_, _| false).unwrap();
        assert_eq!(lines, [(0, Some(vec![0])), (0, Some(vec![1]))]);
    }

    #[test]
    fn without_nodes_there_are_no_lines() {
        let (failing, keys) = (keys(&["0a", "-"]), keys(&["1a", "0b"]));
        let mut last = LastLines::default();
        let failed = split(&failing, &mut last, node_for, |_, _| true);
        assert_eq!(failed, Err(ClusterError::NoAvailableNodes));
        // The next call does not find the line of the failed call.
        let lines = split(&keys, &mut last, node_for, |_, _| true).unwrap();
        assert_eq!(lines, [(1, Some(vec![0])), (0, Some(vec![1]))]);
    }
}
