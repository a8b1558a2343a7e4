pub mod damage;
pub mod model;
pub mod points;
pub mod store;
pub mod volume;

pub use volume::Volume;
