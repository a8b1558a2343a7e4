//! The network between nodes as a table: one entry for each direction of each pair.

use std::time::Duration;

/// What becomes of packets from one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Open,
    /// So many of a hundred packets are lost.
    Lossy(u8),
    Slow(Slow),
    Cut,
}

/// Each packet takes a time of its own, so that some overtake others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slow {
    pub shortest: Duration,
    pub longest: Duration,
    /// So many of a hundred are lost.
    pub lost: u8,
    /// So many of a hundred arrive twice.
    pub twice: u8,
}

impl Slow {
    /// 75 ± 50 ms each way.
    pub const BY_75_MS: Slow = Slow {
        shortest: Duration::from_millis(25),
        longest: Duration::from_millis(125),
        lost: 0,
        twice: 0,
    };
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    nodes: usize,
    /// By `from * nodes + to`.
    links: Vec<Link>,
}

impl Links {
    pub fn open(nodes: usize) -> Links {
        Links::all(nodes, Link::Open)
    }

    /// Everyone loses so many of a hundred packets to everyone.
    pub fn lossy(nodes: usize, percent: u8) -> Links {
        Links::all(nodes, Link::Lossy(percent))
    }

    /// The same between any two.
    pub fn all(nodes: usize, link: Link) -> Links {
        Links {
            nodes,
            links: vec![link; nodes * nodes],
        }
    }

    pub fn nodes(&self) -> usize {
        self.nodes
    }

    pub fn get(&self, from: usize, to: usize) -> Link {
        if from == to {
            return Link::Open;
        }
        self.links[from * self.nodes + to]
    }

    pub fn set(&mut self, from: usize, to: usize, link: Link) {
        self.links[from * self.nodes + to] = link;
    }

    fn cut(mut self, from: usize, to: usize) -> Links {
        self.set(from, to, Link::Cut);
        self
    }
}

/// A partition around one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Nothing goes in or out of the node.
    Isolated,
    /// The node can be heard and hears nothing.
    Deaf,
    /// The node hears and is not heard.
    Mute,
    /// The others are split in two halves, which only the node still reaches both of.
    Bridge,
}

impl Shape {
    pub const ALL: [Shape; 4] = [Shape::Isolated, Shape::Deaf, Shape::Mute, Shape::Bridge];

    pub fn name(self) -> &'static str {
        match self {
            Shape::Isolated => "isolated",
            Shape::Deaf => "deaf",
            Shape::Mute => "mute",
            Shape::Bridge => "bridge",
        }
    }

    pub fn links(self, nodes: usize, around: usize) -> Links {
        let others: Vec<usize> = (0..nodes).filter(|n| *n != around).collect();
        let open = Links::open(nodes);
        match self {
            Shape::Isolated => others
                .iter()
                .fold(open, |l, o| l.cut(*o, around).cut(around, *o)),
            Shape::Deaf => others.iter().fold(open, |l, o| l.cut(*o, around)),
            Shape::Mute => others.iter().fold(open, |l, o| l.cut(around, *o)),
            Shape::Bridge => {
                let (left, right) = others.split_at(others.len() / 2);
                let pairs = left
                    .iter()
                    .flat_map(|a| right.iter().map(move |b| (*a, *b)));
                pairs.fold(open, |l, (a, b)| l.cut(a, b).cut(b, a))
            }
        }
    }

    /// The node that cannot take part, if the shape leaves one out for certain.
    pub fn left_out(self, around: usize) -> Option<usize> {
        (self != Shape::Bridge).then_some(around)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(links: &Links) -> Vec<(usize, usize)> {
        let n = links.nodes();
        let pairs = (0..n).flat_map(|from| (0..n).map(move |to| (from, to)));
        pairs
            .filter(|(f, t)| links.get(*f, *t) == Link::Cut)
            .collect()
    }

    #[test]
    fn the_shapes_are_what_their_names_say() {
        assert_eq!(
            cuts(&Shape::Isolated.links(3, 1)),
            [(0, 1), (1, 0), (1, 2), (2, 1)]
        );
        assert_eq!(cuts(&Shape::Deaf.links(3, 1)), [(0, 1), (2, 1)]);
        assert_eq!(cuts(&Shape::Mute.links(3, 1)), [(1, 0), (1, 2)]);
        assert_eq!(cuts(&Shape::Bridge.links(3, 1)), [(0, 2), (2, 0)]);
        let five = cuts(&Shape::Bridge.links(5, 2));
        assert_eq!(five.len(), 8);
        assert!(!five.iter().any(|(a, b)| *a == 2 || *b == 2));
        // A node always reaches itself.
        assert_eq!(Links::lossy(3, 30).get(1, 1), Link::Open);
    }
}
