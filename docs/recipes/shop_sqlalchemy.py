# shop_sqlalchemy.py
from sqlalchemy import BigInteger, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from idservice.client import Client

ids = Client("http://127.0.0.1:8080", "orders").open()


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False, default=ids.next_id
    )
    text: Mapped[str]


if __name__ == "__main__":
    engine = create_engine("sqlite:///shop_sqlalchemy.db")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        orders = [Order(text="tea"), Order(text="coffee")]
        session.add_all(orders)
        session.commit()
        print(*(order.id for order in orders))
