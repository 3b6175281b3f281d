//! The scheduler: columns, plugins with typed refusals, preemption.
