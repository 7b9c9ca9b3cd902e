//! One simulated file: what the page cache shows and what the platter holds.

use std::collections::BTreeMap;

use crate::dice::Dice;

/// The unit that a disk writes whole or not at all, bytes.
pub const SECTOR: usize = 512;

/// A file's two images and what separates them.
#[derive(Debug, Default)]
pub struct Inode {
    cache: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors of the cache that a sync still has to write, with the stamp of their last change.
    dirty: BTreeMap<usize, u64>,
    /// Stamp of the last change of length that no sync has covered, 0 when there is none.
    len_dirty: u64,
    /// The shortest that the file has been since its length was last made durable: what lies beyond it in
    /// the durable image is no longer part of the file.
    low_len: usize,
    stamp: u64,
}

/// What a sync set out to make durable. A sync takes time, and what is written meanwhile is not part of it.
#[derive(Debug)]
pub struct Snapshot {
    sectors: Vec<(usize, Vec<u8>)>,
    len: usize,
    stamp: u64,
}

impl Inode {
    /// Length in bytes, as a reader sees it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// True when a reader sees no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// The bytes as a reader sees them.
    #[must_use]
    pub fn cache(&self) -> &[u8] {
        &self.cache
    }

    /// Number of sectors that a power loss may take.
    #[must_use]
    pub fn unsynced_sectors(&self) -> usize {
        self.dirty.len()
    }

    /// Writes `bytes` at `offset` into the cache; a gap before them reads as zeros.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if end > self.cache.len() {
            self.set_len(end);
        }
        self.cache[offset..end].copy_from_slice(bytes);
        self.stamp += 1;
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            self.dirty.insert(sector, self.stamp);
        }
    }

    /// Cuts the file, or extends it with zeros.
    pub fn set_len(&mut self, len: usize) {
        self.stamp += 1;
        self.len_dirty = self.stamp;
        self.low_len = self.low_len.min(len);
        self.cache.resize(len, 0);
        self.dirty.split_off(&len.div_ceil(SECTOR));
    }

    /// Begins a sync: notes what has to reach the platter.
    #[must_use]
    pub fn begin_sync(&self) -> Snapshot {
        let sectors = self.dirty.keys().map(|&sector| (sector, self.sector(sector).to_vec())).collect();
        Snapshot { sectors, len: self.cache.len(), stamp: self.stamp }
    }

    /// Ends a sync that worked.
    pub fn finish_sync(&mut self, snapshot: &Snapshot) {
        self.settle_len(snapshot.len);
        for (sector, bytes) in &snapshot.sectors {
            self.burn(*sector, bytes);
        }
        self.mark_clean(snapshot);
    }

    /// Ends a sync that failed, as Linux file systems do: the pages are marked clean although not all of
    /// them were written, so that the next sync succeeds and proves nothing.
    pub fn fail_sync(&mut self, snapshot: &Snapshot, dice: &mut Dice) {
        let written_per_mille = dice.below(1001);
        if dice.chance(500) {
            self.settle_len(snapshot.len);
        }
        for (sector, bytes) in &snapshot.sectors {
            if dice.chance(written_per_mille) {
                self.burn(*sector, bytes);
            }
        }
        self.mark_clean(snapshot);
    }

    /// The power goes: of each unsynced sector the dice say whether it had reached the platter.
    pub fn lose_power(&mut self, dice: &mut Dice) {
        let kept_per_mille = match dice.below(4) {
            0 => 0,
            1 => 1000,
            _ => dice.below(1001),
        };
        if self.len_dirty > 0 && dice.chance(kept_per_mille.max(250)) {
            let grown = self.cache.len().saturating_sub(self.durable.len());
            let missing =
                if dice.chance(250) { usize::try_from(dice.below(grown as u64 + 1)).unwrap_or(0) } else { 0 };
            self.settle_len(self.cache.len() - missing.min(self.cache.len()));
        }
        for (sector, _) in std::mem::take(&mut self.dirty) {
            if dice.chance(kept_per_mille) {
                let bytes = self.sector(sector).to_vec();
                self.burn(sector, &bytes);
            }
        }
        self.cache.clone_from(&self.durable);
        self.len_dirty = 0;
        self.low_len = self.durable.len();
    }

    /// Flips one bit at rest, in both images.
    pub fn flip(&mut self, offset: usize, bit: u8) {
        for image in [&mut self.cache, &mut self.durable] {
            if let Some(byte) = image.get_mut(offset) {
                *byte ^= 1 << (bit & 7);
            }
        }
    }

    fn sector(&self, sector: usize) -> &[u8] {
        let start = (sector * SECTOR).min(self.cache.len());
        &self.cache[start..(start + SECTOR).min(self.cache.len())]
    }

    /// Writes one sector to the durable image, as far as that reaches.
    fn burn(&mut self, sector: usize, bytes: &[u8]) {
        let start = sector * SECTOR;
        let end = (start + bytes.len()).min(self.durable.len());
        if start < end {
            self.durable[start..end].copy_from_slice(&bytes[..end - start]);
        }
    }

    fn settle_len(&mut self, len: usize) {
        if self.len_dirty > 0 {
            self.durable.truncate(self.low_len);
            self.durable.resize(len, 0);
        }
    }

    fn mark_clean(&mut self, snapshot: &Snapshot) {
        self.dirty.retain(|_, stamp| *stamp > snapshot.stamp);
        if self.len_dirty <= snapshot.stamp {
            self.len_dirty = 0;
            self.low_len = self.cache.len();
        } else {
            self.low_len = self.low_len.min(snapshot.len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synced(bytes: &[u8]) -> Inode {
        let mut inode = Inode::default();
        inode.write(0, bytes);
        sync(&mut inode);
        inode
    }

    fn sync(inode: &mut Inode) {
        let snapshot = inode.begin_sync();
        inode.finish_sync(&snapshot);
    }

    /// The images that power losses over many seeds leave behind.
    fn after_power_loss(prepare: impl Fn(u64) -> Inode) -> Vec<Vec<u8>> {
        (0..200)
            .map(|seed| {
                let mut inode = prepare(seed);
                inode.lose_power(&mut Dice::new(seed));
                inode.cache().to_vec()
            })
            .collect()
    }

    #[test]
    fn synced_bytes_survive_every_power_loss() {
        for left in after_power_loss(|_| synced(&[7; 3000])) {
            assert_eq!(left, [7; 3000]);
        }
    }

    #[test]
    fn each_unsynced_sector_survives_or_not_by_itself() {
        let left = after_power_loss(|_| {
            let mut inode = synced(&[1; 4 * SECTOR]);
            inode.write(0, &[2; 4 * SECTOR]);
            inode
        });
        for image in &left {
            for sector in image.chunks(SECTOR) {
                assert!(sector == [1; SECTOR] || sector == [2; SECTOR], "a sector is torn");
            }
        }
        let mixed = left.iter().filter(|image| image[0] != image[SECTOR]).count();
        assert!(mixed > 0, "no write was torn between sectors");
        assert!(left.contains(&vec![1; 4 * SECTOR]) && left.contains(&vec![2; 4 * SECTOR]));
    }

    #[test]
    fn an_unsynced_extension_may_be_lost_and_reads_as_zeros_where_it_was_not_written() {
        let left = after_power_loss(|_| {
            let mut inode = synced(&[1; SECTOR]);
            inode.write(SECTOR, &[2; SECTOR]);
            inode
        });
        assert!(left.iter().any(|image| image.len() == SECTOR), "the length always survived");
        assert!(left.iter().any(|image| image.len() == 2 * SECTOR && image[SECTOR..] == [0; SECTOR]));
        assert!(left.iter().any(|image| image.len() == 2 * SECTOR && image[SECTOR..] == [2; SECTOR]));
    }

    #[test]
    fn a_cut_file_never_shows_its_old_tail_again() {
        let left = after_power_loss(|_| {
            let mut inode = synced(&[1; 2 * SECTOR]);
            inode.set_len(4);
            inode.set_len(10);
            sync(&mut inode);
            inode
        });
        for image in left {
            assert_eq!(image, [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn what_is_written_during_a_sync_is_not_part_of_it() {
        let left = after_power_loss(|_| {
            let mut inode = synced(&[1; SECTOR]);
            inode.write(0, &[2; SECTOR]);
            let snapshot = inode.begin_sync();
            inode.write(0, &[3; SECTOR]);
            inode.finish_sync(&snapshot);
            inode
        });
        assert!(left.iter().all(|image| image[0] != 1), "a finished sync was undone");
        assert!(left.iter().any(|image| image[0] == 2), "an unsynced write always survived");
    }

    #[test]
    fn after_a_failed_sync_the_next_one_succeeds_and_proves_nothing() {
        let left = after_power_loss(|seed| {
            let mut inode = synced(&[1; SECTOR]);
            inode.write(0, &[2; SECTOR]);
            let snapshot = inode.begin_sync();
            inode.fail_sync(&snapshot, &mut Dice::new(seed));
            assert_eq!(inode.cache(), [2; SECTOR], "the cache shows what was written");
            assert_eq!(inode.unsynced_sectors(), 0);
            sync(&mut inode);
            inode
        });
        assert!(left.iter().any(|image| image[0] == 1), "the lost page came back");
    }

    #[test]
    fn a_flipped_bit_is_seen_by_readers_and_survives_power_loss() {
        let mut inode = synced(&[0; 8]);
        inode.flip(3, 1);
        inode.lose_power(&mut Dice::new(1));
        assert_eq!(inode.cache(), [0, 0, 0, 2, 0, 0, 0, 0]);
    }
}
