"""What mails say, in English and Korean. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Letter:
    subject: str
    text: str

    def filled(self, **facts: str) -> "Letter":
        return Letter(self.subject.format(**facts), self.text.format(**facts))


RESET: Final = {
    "en": Letter(
        "Set a new password",
        """\
Somebody, you we hope, asked for a new password for your account. Within an hour, set it here:

    {link}

If it was not you, do nothing: your password stays as it is.
""",
    ),
    "ko": Letter(
        "비밀번호 재설정",
        """\
회원님의 계정에 대한 비밀번호 재설정 요청이 있었습니다. 한 시간 안에 아래 링크에서 새 비밀번호를 설정하세요.

    {link}

요청하지 않으셨다면 아무것도 하지 않으셔도 됩니다. 비밀번호는 그대로 유지됩니다.
""",
    ),
}

INVITATION: Final = {
    "en": Letter(
        "You are invited to {site}",
        """\
{inviter} invites you to {site}, as {role}. Within seven days, accept here:

    {link}

If you have an account already, give its password there.
""",
    ),
    "ko": Letter(
        "{site}에 초대되었습니다",
        """\
{inviter} 님이 회원님을 {site}에 초대했습니다 (역할: {role}). 7일 안에 아래 링크에서 수락하세요.

    {link}

이미 계정이 있다면 그 계정의 비밀번호를 입력하세요.
""",
    ),
}

NEW_ADDRESS: Final = {
    "en": Letter(
        "Confirm your new e-mail address", "Within a day, confirm that this address is yours:\n\n    {link}\n"
    ),
    "ko": Letter("새 이메일 주소 확인", "하루 안에 아래 링크에서 이 주소가 본인의 것임을 확인하세요.\n\n    {link}\n"),
}

CHANGED: Final = {
    "en": Letter(
        "Your account was changed",
        "{what} If it was not you, set a new password at once and tell an owner of your site.\n",
    ),
    "ko": Letter(
        "계정이 변경되었습니다",
        "{what} 본인이 한 일이 아니라면 즉시 새 비밀번호를 설정하고 사업장 소유자에게 알리세요.\n",
    ),
}

ROLES: Final[Mapping[str, Mapping[str, str]]] = {
    "en": {role: role for role in ("owner", "manager", "staff", "auditor", "technician")},
    "ko": {
        "owner": "소유자",
        "manager": "관리자",
        "staff": "직원",
        "auditor": "감사자",
        "technician": "기술 담당자",
    },
}

WHAT: Final[Mapping[str, Mapping[str, str]]] = {
    "en": {
        "password": "Your password was changed.",
        "email": "Your account has another e-mail address now.",
        "totp_on": "The second factor was turned on.",
        "totp_off": "The second factor was turned off.",
    },
    "ko": {
        "password": "비밀번호가 변경되었습니다.",
        "email": "계정의 이메일 주소가 변경되었습니다.",
        "totp_on": "2단계 인증이 켜졌습니다.",
        "totp_off": "2단계 인증이 꺼졌습니다.",
    },
}


def reset(language: str, link: str) -> Letter:
    return RESET[language].filled(link=link)


def invitation(language: str, *, site: str, inviter: str, role: str, link: str) -> Letter:
    return INVITATION[language].filled(site=site, inviter=inviter, role=ROLES[language][role], link=link)


def new_address(language: str, link: str) -> Letter:
    return NEW_ADDRESS[language].filled(link=link)


def changed(language: str, what: str) -> Letter:
    return CHANGED[language].filled(what=WHAT[language][what])
