//! Several single-threaded workers, which beat one network on all cores: small
//! tensors keep only one core busy.

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Threads, as a rule one for each core, with a rayon pool of its own so that Burn does not
/// spread the work of one over the others.
pub(super) struct Workers(Vec<ThreadPool>);

/// Does several trainings, or other work, at the same time: each on one core, which is
/// faster than one after the other on all. Results are in the order of the items.
pub fn in_parallel<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    Workers::for_all_cores().map(items, work)
}

impl Workers {
    /// As many as rayon has threads here: the cores, but one within [`in_parallel`].
    pub(super) fn for_all_cores() -> Self {
        Self::new(rayon::current_num_threads())
    }

    pub(super) fn new(count: usize) -> Self {
        let pool = |_| ThreadPoolBuilder::new().num_threads(1).build().ok();
        Self((0..count).filter_map(pool).collect())
    }

    /// Results in the order of the items, whichever worker makes them.
    pub(super) fn map<T: Send, R: Send>(
        &self,
        items: Vec<T>,
        make: impl Fn(T) -> R + Sync,
    ) -> Vec<R> {
        let workers = self.0.len();
        if items.len() < 2 || workers < 2 {
            return items.into_iter().map(make).collect();
        }
        let count = items.len();
        let mut shares: Vec<Vec<T>> = (0..workers).map(|_| Vec::new()).collect();
        for (index, item) in items.into_iter().enumerate() {
            shares[index % workers].push(item);
        }
        let make = &make;
        let work = |share: Vec<T>| share.into_iter().map(make).collect::<Vec<R>>();
        let mut done: Vec<std::vec::IntoIter<R>> = std::thread::scope(|scope| {
            let started = self.0.iter().zip(shares);
            let started =
                started.map(|(pool, share)| scope.spawn(move || pool.install(|| work(share))));
            let started: Vec<_> = started.collect();
            started
                .into_iter()
                .map(|thread| join(thread).into_iter())
                .collect()
        });
        (0..count)
            .filter_map(|index| done[index % workers].next())
            .collect()
    }
}

/// The result of a thread; its panic goes on in this one.
pub(super) fn join<R>(thread: std::thread::ScopedJoinHandle<'_, R>) -> R {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order() {
        for count in 0..9 {
            let results = Workers::new(3).map((0..count).collect(), |item: usize| item * 10);
            assert!(results.into_iter().eq((0..count).map(|item| item * 10)));
        }
    }
}
