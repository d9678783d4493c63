//! Damage to bytes.

use rand::RngExt;
use rand_pcg::Pcg64;

/// Bytes at the edges of what varints, lengths and texts are made of.
const EDGES: [u8; 12] = [0, 1, 2, 0x0a, 0x12, 0x22, 0x2a, 0x7f, 0x80, 0xff, b'"', b'{'];

/// Damages `bytes` in one to four places.
pub fn damage(random: &mut Pcg64, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..=4) {
        if bytes.is_empty() {
            bytes.push(random.random());
        }
        let at = random.random_range(0..bytes.len());
        let end = (at + random.random_range(1..=16)).min(bytes.len());
        match random.random_range(0..8) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            2 => bytes[at] = EDGES[random.random_range(0..EDGES.len())],
            3 => bytes.insert(at, EDGES[random.random_range(0..EDGES.len())]),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let part = bytes[at..end].to_vec();
                let to = random.random_range(0..=bytes.len());
                bytes.splice(to..to, part);
            }
            6 => bytes[at] = bytes[at].wrapping_add(random.random_range(0..3)).wrapping_sub(1),
            _ => bytes.truncate(at),
        }
    }
}
