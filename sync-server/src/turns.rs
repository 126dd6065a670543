//! One user's requests cannot take every thread: each user has so many calls at once, the rest wait
//! their turn, in order. Commits of one scope wait for each other anyway.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use sync_core::protocol::UserId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The users with a call inside or waiting.
#[derive(Debug)]
pub(crate) struct Turns {
    users: Mutex<BTreeMap<UserId, Arc<Semaphore>>>,
    per_user: usize,
}

impl Turns {
    pub(crate) fn new(per_user: usize) -> Self {
        Self { users: Mutex::default(), per_user: per_user.max(1) }
    }

    /// Waits for a turn, which ends when the result is dropped.
    pub(crate) async fn take(&self, user: &UserId) -> Option<OwnedSemaphorePermit> {
        let turns = {
            let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
            if users.len() >= SWEEP {
                // Nobody but the map knows them: no call inside, none waiting.
                users.retain(|_, turns| Arc::strong_count(turns) > 1);
            }
            Arc::clone(users.entry(user.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.per_user))))
        };
        // Never closed, so this always is a turn.
        turns.acquire_owned().await.ok()
    }
}

/// Idle users are forgotten once there are so many.
const SWEEP: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_end_and_idle_users_are_forgotten() {
        let turns = Turns::new(1);
        let ada = UserId::parse("ada").unwrap();
        let held = turns.take(&ada).await;
        assert!(held.is_some());
        for i in 0..2 * SWEEP {
            turns.take(&UserId::parse(&format!("user {i}")).unwrap()).await;
        }
        assert!(turns.users.lock().unwrap().len() <= SWEEP + 1);
        tokio::select! {
            biased;
            _ = turns.take(&ada) => panic!("there is one turn only, however many users came by"),
            () = std::future::ready(()) => {}
        }
        drop(held);
        assert!(turns.take(&ada).await.is_some());
    }
}
