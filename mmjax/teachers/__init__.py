"""Teachers: frozen models that a student learns from, online or as embeddings beside the data."""

from mmjax.teachers.cached import CachedTeacher
from mmjax.teachers.online import OnlineTeacher
from mmjax.teachers.teacher import Teacher, open_teachers

__all__ = ["CachedTeacher", "OnlineTeacher", "Teacher", "open_teachers"]
